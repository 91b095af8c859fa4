"""Stochastic differential equations: solvers, fields, tasks and data."""

from odeflow_sde.entrywise import Entrywise as Entrywise
from odeflow_sde.euler_heun import EulerHeun as EulerHeun
from odeflow_sde.euler_maruyama import EulerMaruyama as EulerMaruyama
from odeflow_sde.exact_paths import ExactPaths as ExactPaths
from odeflow_sde.geometric_brownian_motion import GeometricBrownianMotion as GeometricBrownianMotion
from odeflow_sde.latent_sde import LatentSDE as LatentSDE
from odeflow_sde.milstein import Milstein as Milstein
from odeflow_sde.mocap import Mocap as Mocap
from odeflow_sde.neural_sde import NeuralSDE as NeuralSDE
from odeflow_sde.ornstein_uhlenbeck import OrnsteinUhlenbeck as OrnsteinUhlenbeck
from odeflow_sde.reversible_heun import ReversibleHeun as ReversibleHeun
from odeflow_sde.shark import ShARK as ShARK
from odeflow_sde.spark import SPaRK as SPaRK
from odeflow_sde.sra1 import SRA1 as SRA1
from odeflow_sde.stochastic_heun import StochasticHeun as StochasticHeun
from odeflow_sde.stochastic_lorenz import StochasticLorenz as StochasticLorenz
from odeflow_sde.transition_likelihood import TransitionLikelihood as TransitionLikelihood
