"""Callbacks that the command line adds to every run, and `WarmupEMA`, which recipes name."""

from odeflow.training.callbacks.figures import Figures
from odeflow.training.callbacks.interruption import Interruption
from odeflow.training.callbacks.last_checkpoint import LastCheckpoint
from odeflow.training.callbacks.predictions import Predictions
from odeflow.training.callbacks.randomness import Randomness
from odeflow.training.callbacks.resumption import Resumption
from odeflow.training.callbacks.run_folder import run_folder
from odeflow.training.callbacks.run_recorder import RunRecorder
from odeflow.training.callbacks.statistics import SolverStatistics
from odeflow.training.callbacks.tables import Tables
from odeflow.training.callbacks.warmup_ema import WarmupEMA

__all__ = [
    "Figures",
    "Interruption",
    "LastCheckpoint",
    "Predictions",
    "Randomness",
    "Resumption",
    "RunRecorder",
    "SolverStatistics",
    "Tables",
    "WarmupEMA",
    "run_folder",
]
