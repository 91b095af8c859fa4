"""`odeflow sample`: draws samples from the model of a checkpoint, in the units of the data file."""

import argparse
import inspect
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from odeflow.analysis import plots as draw
from odeflow.analysis.replay import flows
from odeflow.cli.conditions import read_conditions
from odeflow.cli.options import Options, count, run_of
from odeflow.config.request import Request
from odeflow.errors import CheckpointError, DataError, SettingError
from odeflow.plugin import registry
from odeflow.training import checkpoint
from odeflow.training.callbacks.figures import STYLE
from odeflow.training.files import replacing
from odeflow.training.predict import trained_on
from odeflow.training.table import check_suffix, write_table
from odeflow.training.task import Task
from odeflow.training.units import Units

if TYPE_CHECKING:
    import polars as pl

AT_ONCE = 10_000
"""Batch size of sampling, which bounds the memory."""
OPTIONS = (
    "ckpt_path",
    "count",
    "conditions",
    "guidance",
    "output",
    "seed",
    "solver",
    "num_steps",
    "tolerance",
    "plugins",
)
MOST_IMAGES = 100
"""Maximum number of images in a figure."""


@rc_context(STYLE)
def sample(words: list[str]) -> int:
    """Runs the command.

    Raises:
        OdeflowError: The options are invalid, or the checkpoint's task does not implement sampling.
        CheckpointError: There is no checkpoint, or it does not contain its model's spec.
        SettingError: The output file does not end with .csv, .parquet or .npz.
        OdeflowError: The samples are no vectors, which a table of another format than .npz needs.
    """
    given = _options(words)
    folder = run_of(Path(given.ckpt_path)) or Path()  # the working directory if the checkpoint is not in a run's folder
    output = folder / "samples.npz" if given.output is None else Path(given.output)
    check_suffix(output)
    task = checkpoint.load(given.ckpt_path, given.plugins)
    budget = _solved_by(task, given)
    if given.guidance is not None:
        task.guide(given.guidance)
    torch.manual_seed(given.seed)
    if task.num_covariates and type(task).sample is not Task.sample:
        table = _under_covariates(task, given.conditions, given.count or 1)
        write_table(table, output)
        told = f"samples, {given.count or 1:,} for each series, are in {output}, as {', '.join(table.columns)}"
        print(f"{told}, in the units of the file that it was trained on")  # noqa: T201
        return 0
    units = task.units or Units()
    conditions, of_conditions = None if given.conditions else task.usual_conditions(given.count or 1000), Units()
    if conditions is None:
        of_conditions = units.condition or Units()
        conditions = read_conditions(given.conditions, task.num_conditions, of_conditions)
        if conditions is not None:
            conditions = conditions.repeat_interleave(given.count or 1, dim=0)
    count = (given.count or 1000) if conditions is None else len(conditions)
    drawn = _drawn(task, count, None if conditions is None else of_conditions.standardised(conditions).float())
    if conditions is not None:
        drawn["condition"] = conditions.numpy()
    if output.suffix == ".npz":
        arrays: dict[str, Any] = {**drawn, "seed": given.seed}
        with replacing(output) as part:
            np.savez(part, **arrays)
        names = list(drawn)
    else:
        table = _table(drawn, task)
        write_table(table, output)
        names = table.columns
    told = f"{count:,} samples are in {output}, as {', '.join(names)}"
    if task.units is not None and not task.units.same:
        told += ", in the units of the file that it was trained on"
    figure = _picture(drawn, units.features)
    if figure is not None:
        picture = output.with_suffix(".png")
        with replacing(picture) as part:
            figure.savefig(part)
        told += f"; drawn to {picture}"
    if budget:
        told += f"; {_evaluations(task)} evaluations of the field each batch"
    print(told)  # noqa: T201
    return 0


def _options(words: list[str]) -> argparse.Namespace:
    description = "Draws new samples from what a checkpoint learned, and a picture of points in the plane or images."
    parser = Options("sample", description)
    trained = "the checkpoint, or exported weights; or else -c RECIPE --weights"
    parser.add_argument("--ckpt_path", metavar="FILE", help=trained)
    number = "of samples, by default 1000; with conditions or covariates of each, by default 1"
    parser.add_argument("--count", metavar="COUNT", type=count, help=number)
    conditions = (
        "*.csv or *.parquet, a condition in each row, for a conditional density; if conditions are classes, by default "
        "each class in turn; or a file of series with covariates, for a latent ODE that has them, by default that of "
        "its training"
    )
    parser.add_argument("--conditions", metavar="FILE", help=conditions)
    guidance = "how strongly samples follow their conditions, if the model is Guided: 1 as the data, 2 more clearly"
    parser.add_argument("--guidance", metavar="SCALE", type=float, help=guidance)
    output = "the file to write, *.npz, *.csv or *.parquet; by default samples.npz in the run's folder"
    parser.add_argument("--output", metavar="FILE", help=output)
    parser.add_argument("--seed", metavar="SEED", type=_seed, default="0", help="of the samples; by default 0")
    parser.add_argument("--solver", metavar="NAME", help="the solver; by default that of the checkpoint")
    parser.add_argument("--num_steps", metavar="N", type=count, help="number of its steps of equal size")
    parser.add_argument("--tolerance", metavar="TOL", type=float, help="its rtol and atol, if its steps are adaptive")
    plugins = "file, folder or module of plugins that are not installed; may be repeated"
    parser.add_argument("--plugins", metavar="NAME", help=plugins)
    request = Request.of(words)
    given = parser.read(request.words, OPTIONS)
    given.plugins, given.ckpt_path = request.plugins, given.ckpt_path or request.pretrained()
    if given.ckpt_path is None:
        raise CheckpointError("odeflow sample needs a trained model: --ckpt_path FILE, or -c NAME --weights")
    return given


def _solved_by(task: Task, given: argparse.Namespace) -> bool:
    """Gives the flows of a task the solver of the options, if any; returns whether there is one.

    Raises:
        SettingError: The options need a solver, or the solver does not take them, or the task has no flow.
    """
    options = {"num_steps": given.num_steps, "rtol": given.tolerance, "atol": given.tolerance}
    options = {name: value for name, value in options.items() if value is not None}
    if given.solver is None:
        if options:
            raise SettingError("--num_steps and --tolerance are of a solver: name one by --solver, such as RK4")
        return False
    kind = registry.look_up("solver", given.solver)
    wrong = {*options} - {*inspect.signature(kind.__init__).parameters}
    if wrong:
        raise SettingError(f"{given.solver} has no option {', '.join(sorted(wrong))}")
    with registry.building(given.solver):
        solver: Any = kind(**options)
    for flow in flows(task):
        flow.solver = solver
    return True


def _evaluations(task: Task) -> int:
    """Evaluations of all fields in the last batch."""
    return sum(flow.stats.nfe_forward for flow in flows(task) if flow.stats is not None)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text!r}")
    return int(text)


def _drawn(task: Task, count: int, conditions: Tensor | None) -> dict[str, np.ndarray]:
    """Samples in the units of the data file, drawn in batches."""
    conditional: Any = task  # its `sample` takes conditions
    parts: dict[str, list[Tensor]] = defaultdict(list)
    with torch.no_grad():
        for start in range(0, count, AT_ONCE):
            size = min(AT_ONCE, count - start)
            given = () if conditions is None else (conditions[start : start + size],)
            for name, values in conditional.sample(size, *given).items():
                parts[name].append(values)
    whole = {name: torch.cat(values) for name, values in parts.items()}
    return {name: values.numpy() for name, values in _restored(whole, task.units or Units()).items()}


def _under_covariates(task: Task, path: str | None, count: int) -> "pl.DataFrame":
    """Samples of each series in a file under its covariates: their number, the series' id, the times, and the values.

    Args:
        task: A task with covariates.
        path: The file; by default that of the training.
        count: Number of samples for each series.
    """
    import polars as pl

    conditional: Any = task  # its `sample` takes series
    try:
        units, data = task.units or Units(), trained_on(task, path)
    except DataError as problem:
        whose = "that of the training" if path is None else "that of --conditions"
        raise SettingError(
            f"samples have the covariates of the series in a file, {whose}: {problem}. Give a file by --conditions"
        ) from problem
    data.adopt(units)
    data.setup("sample")
    drawn: list[list[Tensor]] = [[] for _ in range(count)]
    with torch.no_grad():
        for series in data.predict_dataloader():
            size = max(AT_ONCE // len(series.t), 1)
            for start in range(0, count, size):
                x = units.restored(conditional.sample(min(size, count - start), series)["x"])
                for number, sample in enumerate(x, start):
                    drawn[number].append(sample)
    tables = [data.table(each) for each in drawn]
    name = "sample"
    while name in tables[0].columns:
        name += "_"
    numbered = [table.select(pl.lit(number + 1).alias(name), pl.all()) for number, table in enumerate(tables)]
    return pl.concat(numbered)


def _restored(drawn: dict[str, Tensor], units: Units) -> dict[str, Tensor]:
    """The samples, their times and log-densities in the units of the data file."""
    restored = dict(drawn)
    if "x" in drawn:
        restored["x"] = units.restored(drawn["x"])
        if "log_prob" in drawn:
            restored["log_prob"] = drawn["log_prob"] - units.log_volume(drawn["x"][0].numel())
    if "t" in drawn:
        restored["t"] = units.restored_time(drawn["t"])
    return restored


def _table(drawn: dict[str, np.ndarray], task: Task) -> "pl.DataFrame":
    """Samples as columns with the names of the features.

    Of vectors (N, d) there is a row each, with conditions and log-densities; of series (N, T, d) a row for each time,
    after the number of the sample and the time.

    Raises:
        SettingError: The samples are neither.
    """
    import polars as pl

    x, units = drawn["x"], task.units or Units()
    if x.ndim > 3 or (x.ndim == 3 and "t" not in drawn):
        raise SettingError(f"--output: samples of shape {x.shape[1:]} are no rows of a table; write them to *.npz")
    values = x.reshape(-1, x.shape[-1]).T
    columns = dict(zip(units.features or [f"x{number}" for number in range(len(values))], values, strict=True))
    if x.ndim == 3:
        options = {} if task.data_spec is None else task.data_spec["init_args"]
        number = np.repeat(np.arange(1, len(x) + 1), x.shape[1])
        keys = {"sample": number, options.get("time") or "t": units.calendar(drawn["t"].ravel())}
        return pl.DataFrame({f"{name}_" if name in columns else name: key for name, key in keys.items()} | columns)
    if "condition" in drawn:
        given = drawn["condition"].T
        names = (units.condition or Units()).features or [f"c{number}" for number in range(len(given))]
        columns = dict(zip(names, given, strict=True)) | columns
    others = {name: values for name, values in drawn.items() if name not in columns and values.ndim == 1}
    return pl.DataFrame(columns | others)


def _picture(drawn: dict[str, np.ndarray], names: Sequence[str]) -> Figure | None:
    """A figure of images or of points in the plane; None for other samples."""
    x = drawn.get("x")
    if x is not None and x.ndim == 4:
        return draw.images({"samples": torch.from_numpy(x[:MOST_IMAGES])})
    if x is None or x.ndim != 2 or x.shape[1] != 2:
        return None
    return _scatter(x, drawn.get("log_prob"), names)


def _scatter(x: np.ndarray, log_prob: np.ndarray | None, names: Sequence[str]) -> Figure:
    """A scatter plot of samples (N, 2) of features with these names, coloured by their log-density if known."""
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    size = min(max(60 / len(x) ** 0.5, 0.5), 10)
    points = axes.scatter(*x.T, s=size, linewidths=0, c="C0" if log_prob is None else log_prob)
    if log_prob is not None:
        figure.colorbar(points, label="$\\log p(x)$ in nats")
    axes.set(title=f"{len(x):,} samples")
    if names:  # of any units
        first, second = (name.replace("$", r"\$") for name in names)
        axes.set(xlabel=first, ylabel=second)
    else:
        axes.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    return figure
