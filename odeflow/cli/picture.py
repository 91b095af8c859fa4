"""The figures of `odeflow plot`. Each is measured while a Lightning Trainer tests the checkpoint's task."""

import csv
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from odeflow.analysis import measure
from odeflow.analysis import plots as draw
from odeflow.analysis.measure import Effort
from odeflow.analysis.plots import Epoch, Tested
from odeflow.analysis.replay import flows, record
from odeflow.cli.command import Command
from odeflow.density.cnf import CNF
from odeflow.engine.output.solution import SolveError
from odeflow.engine.solver import Solver
from odeflow.errors import DataError, SettingError, StateError
from odeflow.plugin import registry
from odeflow.plugin.spec import sequence
from odeflow.training.task import Task

REFERENCE, TIGHTER = "Dopri5", 100
"""The reference solver, and the factor by which its tolerance is below the smallest one measured."""
VARIED = ("num_steps", "rtol", "atol")
CHANNELS = 4
"""Default number of channels shown."""


@dataclass(frozen=True)
class Picture:
    """A figure and its data.

    Attributes:
        figure: The figure to save.
        rows: The plotted numbers as records with the same keys, at least one.
        frames: Callables that advance the figure to its next frame; empty unless it is an animation.
    """

    figure: Figure
    rows: list[dict[str, Any]]
    frames: Sequence[Callable[[], None]] = ()


def statistics(command: Command, run: Path | None, solver: str, tolerances: Sequence[float], samples: int) -> Picture:
    """Figure 3 of Chen et al. (2018) for the first test batch.

    Args:
        command: Holds task, data and trainer.
        run: The folder of the run that wrote the checkpoint, for its metrics.
        solver: Name of an adaptive solver.
        tolerances: Values of its rtol and atol.
        samples: Number of samples.
    """
    if not _takes(solver, "rtol", "atol"):
        raise SettingError(
            f"{solver} has no rtol and atol to vary; name an adaptive solver by --solver, such as Dopri5"
        )
    tightest = min(tolerances) / TIGHTER
    reference = _made(REFERENCE, rtol=tightest, atol=tightest)

    def measured(task: Task, batch: Any) -> list[Effort]:
        solves = [solve.leading(samples) for solve in record(task, lambda: task.loss(batch, "test"))]
        ordered = sorted(tolerances, reverse=True)
        return measure.efforts(solves, lambda value: _made(solver, rtol=value, atol=value), ordered, reference)

    efforts: list[Effort] = _of_first_batch(command, measured)
    _print(efforts)
    return Picture(draw.statistics(efforts, _epochs(run), solver), [asdict(effort) for effort in efforts])


def activations(command: Command, channels: Sequence[int] | None, samples: int) -> Picture:
    """The state of the first flow over time for the first test batch.

    Args:
        command: Holds task, data and trainer.
        channels: Indices of the channels; by default those that vary most.
        samples: Number of samples.
    """

    def measured(task: Task, batch: Any) -> tuple[measure.Activations, Tensor | None]:
        solve = record(task, lambda: task.loss(batch, "test"))[0].leading(samples)
        shown = measure.activations(solve)
        return shown, _labels(batch, shown.y.shape[1])

    shown, labels = _of_first_batch(command, measured)
    size = shown.y.shape[2]
    chosen = measure.liveliest(shown.y, CHANNELS) if channels is None else channels
    if max(chosen) >= size:
        raise SettingError(f"--channels: the state has {size}, numbered 0 to {size - 1}; got {max(chosen)}")
    pieces = measure.components(shown.state) if shown.state.shape[2] > 1 else None
    rows: list[dict[str, Any]] = []
    for sample in range(shown.y.shape[1]):
        for moment, time in enumerate(shown.t.tolist()):
            row: dict[str, Any] = {"sample": sample, "label": "" if labels is None else int(labels[sample]), "t": time}
            row |= {f"y_{channel}": float(shown.y[moment, sample, channel]) for channel in chosen}
            if pieces is not None:
                row |= {f"component_{n + 1}": float(score) for n, score in enumerate(pieces.scores[moment, sample])}
            rows.append(row)
    return Picture(draw.activations(shown, pieces, chosen, labels), rows)


def precision(
    command: Command, solvers: Sequence[str], num_steps: Sequence[int], tolerances: Sequence[float]
) -> Picture:
    """The test metric of one checkpoint under several solvers, its own first.

    Args:
        command: Holds task, data and trainer.
        solvers: Names of the solvers.
        num_steps: Numbers of steps, for solvers that have no tolerances.
        tolerances: Values of rtol and atol, for the others.
    """
    settings: list[tuple[str, dict[str, Any]]] = []
    for name in solvers:
        if _takes(name, "rtol", "atol"):
            settings += [(name, {"rtol": value, "atol": value}) for value in sorted(tolerances, reverse=True)]
        elif _takes(name, "num_steps"):
            settings += [(name, {"num_steps": count}) for count in sorted(num_steps)]
        else:
            raise SettingError(f"{name} has neither num_steps nor rtol and atol to vary; leave it out of --solvers")
    asked = flows(command.model)
    own = asked[0].solver
    tests = [_tested(command, type(own).__name__, own.remembered_spec["init_args"], trained=True)]
    for name, options in settings:
        solver = _made(name, **options)
        for flow in asked:
            flow.solver, flow.stats = solver, None
        tests.append(_tested(command, name, options))
    _print(tests)
    return Picture(draw.precision(tests), [asdict(test) for test in tests])


def animation(command: Command, frames: int, samples: int) -> Picture:
    """The density of a CNF in the plane on its way from the base to the data, above samples moving with it.

    Args:
        command: Holds the task.
        frames: Number of frames.
        samples: Number of samples.

    Raises:
        SettingError: The task has no `CNF`, or its data are not two-dimensional.
    """
    cnf = next((module for module in command.model.eval().modules() if isinstance(module, CNF)), None)
    if cnf is None or tuple(cnf.shape) != (2,):
        what = "learns no density" if cnf is None else f"learns one of the shape {tuple(cnf.shape)}"
        raise SettingError(f"an animation needs a density on the plane; {type(command.model).__name__} {what}")
    torch.manual_seed(0)
    moments = measure.evolution(cnf, frames, samples)
    rows: list[dict[str, Any]] = [
        {"progress": moment.progress, "entropy": moment.entropy, "mass": moment.mass} for moment in moments
    ]
    figure, show = draw.evolution(moments[0])
    return Picture(figure, rows, [partial(show, moment) for moment in moments])


def _tested(command: Command, solver: str, options: dict[str, Any], trained: bool = False) -> Tested:
    """Tests with one solver. The value is nan if the solver fails or does not support the task."""
    defaults = inspect.signature(registry.look_up("solver", solver).__init__).parameters
    said = {name: value for name, value in options.items() if name in VARIED or value != defaults[name].default}
    setting = ", ".join(f"{name}={value}" for name, value in said.items() if value is not None)
    try:
        command.trainer.test(command.model, command.datamodule, verbose=False)
    except (SolveError, StateError, SettingError) as problem:
        if trained and not isinstance(problem, SolveError):
            raise
        return Tested(solver, setting, trained, math.nan, "", math.nan)
    results = {name: float(value) for name, value in command.trainer.callback_metrics.items()}
    metric = "test/error_percent" if "test/error_percent" in results else "test/loss"
    return Tested(solver, setting, trained, results["test/nfe"], metric, results[metric])


class _FirstBatch(Callback):
    """Calls a function on the first test batch, on its device, and stores the result."""

    def __init__(self, use: Callable[[Task, Any], Any]) -> None:
        self.use, self.result = use, None

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.result is None and isinstance(pl_module, Task):
            self.result = self.use(pl_module, batch)


def _of_first_batch(command: Command, use: Callable[[Task, Any], Any]) -> Any:
    """The value of a function at the first test batch.

    Raises:
        DataError: The test data have no batch.
    """
    callback = _FirstBatch(use)
    command.trainer.callbacks.append(callback)  # pyright: ignore[reportAttributeAccessIssue]
    command.trainer.test(command.model, command.datamodule, verbose=False)
    if callback.result is None:
        raise DataError(f"the test part of {type(command.datamodule).__name__} has no batches")
    return callback.result


def _labels(batch: Any, count: int) -> Tensor | None:
    """The classes of the first `count` samples, if the batch is a pair of inputs and integer labels."""
    parts = sequence(batch)
    labels = parts[1] if parts is not None and len(parts) == 2 else None
    if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point() or len(labels) < count:
        return None
    return labels[:count].cpu()


def _takes(solver: str, *options: str) -> bool:
    """Whether the solver of this name has these options."""
    return {*options} <= {*inspect.signature(registry.look_up("solver", solver).__init__).parameters}


def _made(solver: str, **options: Any) -> Solver:
    made = registry.look_up("solver", solver)(**options)
    assert isinstance(made, Solver)
    return made


def _epochs(run: Path | None) -> list[Epoch]:
    """The mean NFE of each epoch of a run, from the metrics.csv in its folder; empty if there is none."""
    file = (run or Path()) / "metrics.csv"
    if run is None or not file.is_file():
        return []
    with file.open() as lines:
        rows = [row for row in csv.DictReader(lines) if row.get("nfe/forward_epoch") and row.get("nfe/backward_epoch")]
    return [Epoch(int(row["epoch"]), float(row["nfe/forward_epoch"]), float(row["nfe/backward_epoch"])) for row in rows]


def _print(rows: Sequence[Effort] | Sequence[Tested]) -> None:
    table = Table(*(field.name for field in fields(rows[0])), box=None, pad_edge=False)
    for row in rows:
        values = asdict(row).values()
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values))
    Console().print(table, markup=False)
