"""Callbacks that the command line adds to every run."""

from odeflow.callbacks.figures import Figures
from odeflow.callbacks.predictions import Predictions
from odeflow.callbacks.run_folder import run_folder
from odeflow.callbacks.statistics import SolverStatistics

__all__ = ["Figures", "Predictions", "SolverStatistics", "run_folder"]
