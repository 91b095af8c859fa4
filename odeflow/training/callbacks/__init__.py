"""Callbacks that the command line adds to every run, and `WarmupEMA`, which recipes name."""

from odeflow.training.callbacks.epoch_metrics import EpochMetrics as EpochMetrics
from odeflow.training.callbacks.figures import Figures as Figures
from odeflow.training.callbacks.interruption import Interruption as Interruption
from odeflow.training.callbacks.last_checkpoint import LastCheckpoint as LastCheckpoint
from odeflow.training.callbacks.predictions import Predictions as Predictions
from odeflow.training.callbacks.randomness import Randomness as Randomness
from odeflow.training.callbacks.resumption import Resumption as Resumption
from odeflow.training.callbacks.run_folder import run_folder as run_folder
from odeflow.training.callbacks.run_recorder import RunRecorder as RunRecorder
from odeflow.training.callbacks.statistics import SolverStatistics as SolverStatistics
from odeflow.training.callbacks.tables import Tables as Tables
from odeflow.training.callbacks.warmup_ema import WarmupEMA as WarmupEMA
from odeflow.training.faults import Faults as Faults

GROUPS = {"faults": Faults, "figures": Figures, "saving": LastCheckpoint}
"""Callbacks of every run whose options are a group of the command line and of recipes."""
