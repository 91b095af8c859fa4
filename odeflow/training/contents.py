"""The contents of checkpoints, as Lightning and odeflow write them."""

import re
from typing import Annotated, Any, NotRequired, TypedDict

from torch import Tensor

from odeflow.plugin.structure import Only, mismatch
from odeflow.training import faults
from odeflow.training.callbacks import epoch_metrics, randomness, resumption, statistics

Count = Annotated[int, Only(lambda value: 0 <= value < 2**63, "a number of steps, batches or epochs")]
Version = Annotated[
    str, Only(lambda value: bool(re.fullmatch(r"\d+(\.\w+)*(\+[\w.]+)?", value)), "a version such as 2.6.0")
]


class Steps(TypedDict):
    """How many steps of an optimizer or a schedule began and ended."""

    ready: Count
    completed: Count


class Batches(Steps):
    """How many batches or epochs did."""

    started: Count
    processed: Count


class Progress(TypedDict):
    """Batches or epochs of the run, and of the present part of it."""

    total: Batches
    current: Batches


class BatchProgress(Progress):
    """Likewise, of a part that may end early."""

    is_last_batch: bool


class StepProgress(TypedDict):
    """Steps of the run, and of the present part of it."""

    total: Steps
    current: Steps


class OptimizerSteps(TypedDict):
    """Steps of an optimizer, and how often gradients were dropped."""

    step: StepProgress
    zero_grad: StepProgress


class OptimizerProgress(TypedDict):
    """Steps of the optimizer that training steps."""

    optimizer: OptimizerSteps


class EpochLoop(TypedDict, total=False):
    """The steps of a training that are logged."""

    _batches_that_stepped: Count


FitLoop = TypedDict(
    "FitLoop",
    {
        "state_dict": NotRequired[dict[str, Any]],
        "epoch_progress": Progress,
        "epoch_loop.state_dict": NotRequired[EpochLoop],
        "epoch_loop.batch_progress": BatchProgress,
        "epoch_loop.scheduler_progress": NotRequired[StepProgress],
        "epoch_loop.automatic_optimization.optim_progress": NotRequired[OptimizerProgress],
        "epoch_loop.manual_optimization.optim_step_progress": NotRequired[StepProgress],
        "epoch_loop.val_loop.batch_progress": NotRequired[BatchProgress],
    },
)


class EvaluationLoop(TypedDict, total=False):
    """The progress of a validation or a test."""

    batch_progress: BatchProgress


class PredictionLoop(TypedDict, total=False):
    """The progress of a prediction."""

    batch_progress: Progress


class Loops(TypedDict):
    """The progress of each command."""

    fit_loop: FitLoop
    validate_loop: EvaluationLoop
    test_loop: EvaluationLoop
    predict_loop: PredictionLoop


class Group(TypedDict):
    """A group of parameters, by number or name; its other entries are options of the optimizer."""

    params: list[int | str]


class Optimizer(TypedDict):
    """The state of an optimizer: those of parameters, and some may hold more by name; and the groups of parameters."""

    state: dict[int | str, Any]
    param_groups: list[Group]


class Schedule(TypedDict, total=False):
    """The state of a schedule."""

    last_epoch: float
    _step_count: int
    base_lrs: list[float | Tensor]
    _last_lr: list[float | Tensor]


class Data(TypedDict, total=False):
    """The state of a data plugin."""

    units: dict[str, Any]
    epoch: int


class Best(TypedDict):
    """The state of Lightning's `ModelCheckpoint`."""

    monitor: str | None
    best_model_score: Tensor | float | None
    best_model_path: str
    current_score: Tensor | float | None
    dirpath: str | None
    best_k_models: dict[str, Tensor | float]
    kth_best_model_path: str
    kth_value: Tensor | float
    last_model_path: str


class Patience(TypedDict):
    """The state of Lightning's `EarlyStopping`."""

    wait_count: Count
    stopped_epoch: Count
    best_score: Tensor | float
    patience: Count


class Average(TypedDict):
    """The state of Lightning's `WeightAveraging`."""

    latest_update_step: Count


CALLBACKS: dict[str, Any] = {
    "EarlyStopping": Patience,
    "EpochMetrics": epoch_metrics.State,
    "Faults": faults.State,
    "ModelCheckpoint": Best,
    "Randomness": randomness.State,
    "Resumption": resumption.State,
    "SolverStatistics": statistics.State,
    "WarmupEMA": Average,
    "WeightAveraging": Average,
}
"""The states of callbacks by their class."""
Weights = dict[str, Tensor]
Checkpoint = TypedDict(
    "Checkpoint",
    {
        "epoch": Count,
        "global_step": Count,
        "pytorch-lightning_version": Version,
        "state_dict": Weights,
        "current_model_state": Weights,
        "averaging_state": Weights,
        "loops": Loops,
        "callbacks": dict[str, Any],
        "optimizer_states": list[Optimizer],
        "lr_schedulers": list[Schedule],
    },
    total=False,
)
"""A checkpoint. Only its weights are needed to rebuild a model."""
EVALUATED = ("pytorch-lightning_version",)
RESUMED = (*EVALUATED, "loops", "optimizer_states", "lr_schedulers")
"""What evaluating a checkpoint needs beside its weights, and what resuming its run needs."""


def unlike(contents: dict[str, Any], data: str | None = None) -> str | None:
    """What in a checkpoint is not as Lightning and odeflow write it; None if all is.

    Args:
        contents: The contents.
        data: The class of the data that its model was trained on, under which their state is stored.
    """
    states = contents.get("callbacks") if isinstance(contents.get("callbacks"), dict) else {}
    parts = [(contents, Checkpoint, "")]
    parts += [
        (state, CALLBACKS[name], f"callbacks/{name}")
        for key, state in (states or {}).items()
        if (name := str(key).partition("{")[0]) in CALLBACKS
    ]
    parts += [(contents[data], Data, data)] if data in contents else []
    return next((wrong for part in parts if (wrong := mismatch(*part))), None)
