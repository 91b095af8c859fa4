"""The tasks that come with odeflow, one file each."""

from odeflow_tasks.classification import Classification
from odeflow_tasks.density import Density
from odeflow_tasks.latent_ode import LatentODE
from odeflow_tasks.ode_rnn import ODERNN
from odeflow_tasks.regression import Regression
from odeflow_tasks.rnn import RNN
from odeflow_tasks.shooting import Shooting
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
]
