"""The tasks that come with odeflow, one file each."""

from odeflow_tasks.classification import Classification
from odeflow_tasks.trajectory import Trajectory

__all__ = ["Classification", "Trajectory"]
