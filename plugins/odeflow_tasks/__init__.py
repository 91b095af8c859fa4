"""odeflow's tasks and their components, one file each."""

from odeflow_tasks.chain import Chain
from odeflow_tasks.classification import Classification
from odeflow_tasks.density import Density
from odeflow_tasks.dequantisation import Dequantisation
from odeflow_tasks.encoder import Encoder, ODERNNEncoder, RNNEncoder
from odeflow_tasks.head import Head, LinearHead, Perceptron, PooledHead
from odeflow_tasks.instance_norm import InstanceNorm
from odeflow_tasks.interpolation import Hermite, Interpolation, Linear, NaturalCubic, Rectilinear
from odeflow_tasks.latent_ode import Bound, LatentODE
from odeflow_tasks.levenberg_marquardt import LevenbergMarquardt
from odeflow_tasks.likelihood import Gaussian, Likelihood
from odeflow_tasks.masking import Masking
from odeflow_tasks.ode_rnn import ODERNN
from odeflow_tasks.readout import Readout
from odeflow_tasks.regression import Regression
from odeflow_tasks.rnn import RNN
from odeflow_tasks.shooting import Shooting
from odeflow_tasks.stem import ConvStem, FlatStem, Stem
from odeflow_tasks.trajectory import Trajectory
from odeflow_tasks.variational import Variational

__all__ = [
    "RNN",
    "Classification",
    "Density",
    "LatentODE",
    "ODERNN",
    "Regression",
    "Shooting",
    "Trajectory",
    "Variational",
    "Encoder",
    "ODERNNEncoder",
    "RNNEncoder",
    "Head",
    "LinearHead",
    "Perceptron",
    "PooledHead",
    "Likelihood",
    "Gaussian",
    "Interpolation",
    "Hermite",
    "Linear",
    "NaturalCubic",
    "Rectilinear",
    "Stem",
    "ConvStem",
    "FlatStem",
    "Bound",
    "Chain",
    "Dequantisation",
    "Masking",
    "Readout",
    "InstanceNorm",
    "LevenbergMarquardt",
]
