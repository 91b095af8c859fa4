"""The tasks that come with odeflow, one file each."""

from odeflow_tasks.classification import Classification
from odeflow_tasks.density import Density
from odeflow_tasks.regression import Regression
from odeflow_tasks.trajectory import Trajectory
from odeflow_tasks.variational import Variational

__all__ = ["Classification", "Density", "Regression", "Trajectory", "Variational"]
