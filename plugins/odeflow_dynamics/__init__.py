"""odeflow's vector fields, one file each."""

from odeflow_dynamics.coefficient import Coefficient
from odeflow_dynamics.controlled import Controlled
from odeflow_dynamics.convnet import ConvNet
from odeflow_dynamics.cubic import Cubic
from odeflow_dynamics.damped_pendulum import DampedPendulum
from odeflow_dynamics.equations import Equations
from odeflow_dynamics.galerkin import Galerkin
from odeflow_dynamics.hypernetwork import Hypernetwork
from odeflow_dynamics.linear import Linear
from odeflow_dynamics.lotka_volterra import LotkaVolterra
from odeflow_dynamics.mlp import MLP
from odeflow_dynamics.normed import Normed
from odeflow_dynamics.own_clock import OwnClock
from odeflow_dynamics.piecewise import Piecewise
from odeflow_dynamics.planar_cnf import PlanarCNF
from odeflow_dynamics.projectile import Projectile
from odeflow_dynamics.sum import Sum
from odeflow_dynamics.transformer import Transformer
from odeflow_dynamics.unet import UNet

__all__ = [
    "Coefficient",
    "Controlled",
    "ConvNet",
    "Cubic",
    "DampedPendulum",
    "Equations",
    "Galerkin",
    "Hypernetwork",
    "Linear",
    "LotkaVolterra",
    "MLP",
    "Normed",
    "OwnClock",
    "Piecewise",
    "PlanarCNF",
    "Projectile",
    "Sum",
    "Transformer",
    "UNet",
]
