"""Callbacks that the command line adds to every run."""

from odeflow.callbacks.figures import Figures
from odeflow.callbacks.interruption import Interruption
from odeflow.callbacks.last_checkpoint import LastCheckpoint
from odeflow.callbacks.predictions import Predictions
from odeflow.callbacks.randomness import Randomness
from odeflow.callbacks.resumption import Resumption
from odeflow.callbacks.run_folder import run_folder
from odeflow.callbacks.statistics import SolverStatistics

__all__ = [
    "Figures",
    "Interruption",
    "LastCheckpoint",
    "Predictions",
    "Randomness",
    "Resumption",
    "SolverStatistics",
    "run_folder",
]
