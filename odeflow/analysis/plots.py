"""Figures of the results of `odeflow.analysis.measure`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from torch import Tensor

from odeflow.analysis.measure import Activations, Components, Effort, Moment

MOST_CLASSES = 10
"""Maximum number of classes in a legend; with more, a colour bar is drawn."""


@dataclass(frozen=True)
class Epoch:
    """Solver statistics of a training epoch, averaged over its steps.

    Attributes:
        epoch: Index of the epoch, from 0.
        nfe_forward: Evaluations of the field in a forward pass.
        nfe_backward: Evaluations of the field in a backward pass.
    """

    epoch: int
    nfe_forward: float
    nfe_backward: float


@dataclass(frozen=True)
class Tested:
    """The test metric under one solver.

    Attributes:
        solver: Name of the solver.
        setting: Options of the solver.
        trained: Whether it is the checkpoint's own solver.
        nfe: Evaluations of the field in a forward pass, averaged over the batches.
        metric: Name of the metric, such as "test/loss".
        value: Value of the metric; nan if the solver failed.
    """

    solver: str
    setting: str
    trained: bool
    nfe: float
    metric: str
    value: float


def statistics(efforts: Sequence[Effort], epochs: Sequence[Epoch], solver: str) -> Figure:
    """Figure 3 of Chen et al. (2018): error, time and backward NFE against forward NFE, and NFE over training.

    Args:
        efforts: One per tolerance; those whose forward pass failed are omitted.
        epochs: The training epochs; if there are none, the panel shows a note.
        solver: Name of the solver, for the title.
    """
    efforts = [effort for effort in efforts if math.isfinite(effort.nfe_forward)]
    figure = Figure(figsize=(15, 4), layout="constrained")
    error, duration, backward, training = figure.subplots(1, 4)
    nfe = [effort.nfe_forward for effort in efforts]
    slowest = max((effort.seconds for effort in efforts), default=1.0)
    _scatter(error, nfe, [effort.error for effort in efforts], efforts)
    _scatter(duration, nfe, [effort.seconds / slowest for effort in efforts], efforts)
    for name, marker, values in (
        ("Adjoint", "o", [effort.nfe_adjoint for effort in efforts]),
        ("Checkpointed", "s", [effort.nfe_checkpointed for effort in efforts]),
    ):
        backward.plot(nfe, values, color="0.8", zorder=1)
        _scatter(backward, nfe, values, efforts, marker)
        backward.plot([], [], marker, color="0.5", label=name)
    backward.plot(nfe, nfe, ":", color="0.5", zorder=0, label="as many as forward")
    error.set(yscale="log", ylabel="relative error", title="(a) numerical error")
    duration.set(ylabel=f"relative time (1 = {_duration(slowest)})", title="(b) forward time", ylim=(0, 1.08))
    backward.set(ylabel="NFE backward", title="(c) backward pass")
    backward.legend(fontsize="small")
    for axes in (error, duration, backward):
        axes.set(xlabel="NFE forward")
    if not efforts:
        for axes in (error, duration, backward):
            _note(axes, "no tolerance succeeded")
    wide = _spread([*nfe, *(each.nfe_adjoint for each in efforts)]) > 12
    for axes, axis in ((error, "x"), (duration, "x"), (backward, "x"), (backward, "y")):
        if wide:
            _scale_by_logarithm(axes, axis)
    _draw_training(training, epochs)
    _legend_of_tolerances(figure, efforts, solver)
    return figure


def _draw_training(axes: Any, epochs: Sequence[Epoch]) -> None:
    axes.set(xlabel="epoch", ylabel="NFE a step", title="(d) training")
    if not epochs:
        _note(axes, "no metrics.csv with NFE\nbeside the checkpoint")
        return
    numbers = [each.epoch for each in epochs]
    size = 6 if len(epochs) < 30 else 3
    axes.plot(numbers, [each.nfe_forward for each in epochs], "o-", markersize=size, label="forward")
    axes.plot(numbers, [each.nfe_backward for each in epochs], "s--", markersize=size - 2, label="backward")
    axes.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(fontsize="small")


def _scatter(axes: Any, x: Sequence[float], y: Sequence[float], efforts: Sequence[Effort], marker: str = "o") -> None:
    axes.scatter(x, y, c=_colours(efforts), marker=marker, s=45, zorder=2, edgecolors="black", linewidths=0.4)


def _colours(efforts: Sequence[Effort]) -> list[Any]:
    return [colormaps["viridis"](number / max(1, len(efforts) - 1)) for number in range(len(efforts))]


def _legend_of_tolerances(figure: Figure, efforts: Sequence[Effort], solver: str) -> None:
    handles = [
        Line2D([], [], linestyle="", marker="o", color=colour, label=_power(effort.tolerance))
        for effort, colour in zip(efforts, _colours(efforts), strict=True)
    ]
    title = f"{solver},\nrtol = atol ="
    figure.legend(handles=handles, title=title, loc="outside right upper", fontsize="small", title_fontsize="small")


def activations(
    shown: Activations, pieces: Components | None, channels: Sequence[int], labels: Tensor | None
) -> Figure:
    """The state over time: selected channels, one line per sample, and the first two principal components.

    Args:
        shown: The states of all samples.
        pieces: Two components; None for one-dimensional states.
        channels: Indices of the channels, one panel each.
        labels: (B,), the classes of the samples, if any.
    """
    columns = math.ceil(math.sqrt(len(channels)))
    rows = math.ceil(len(channels) / columns)
    side = max(2.3 * rows, 5.0)
    figure = Figure(figsize=(3.3 * columns + side + 1.2, side), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(3.3 * columns, side + 1.2))
    left, right = halves
    panels = left.subplots(rows, columns, squeeze=False, sharex=True)
    place = f" at the central pixel, {shown.pixel}" if shown.pixel else ""
    left.suptitle(f"activations{place}", fontsize="large")
    colours = _sample_colours(shown.y.shape[1], labels)
    for number, axes in enumerate(panels.flat):
        if number >= len(channels):
            axes.set_axis_off()
            continue
        for sample, colour in enumerate(colours):
            axes.plot(shown.t, shown.y[:, sample, channels[number]], color=colour, linewidth=0.8, alpha=0.8)
        axes.set(ylabel=f"$y_{{{channels[number]}}}$")
        if number >= len(channels) - columns:
            axes.tick_params(labelbottom=True)
            axes.set(xlabel="$t$")
    axes = right.subplots()
    if pieces is None:
        axes.set(title="principal components")
        _note(axes, "a state of one dimension\nhas no second component")
    else:
        _draw_components(axes, pieces, colours)
    _legend_of_samples(axes, colours, labels)
    return figure


def _draw_components(axes: Any, pieces: Components, colours: Sequence[Any]) -> None:
    for sample, colour in enumerate(colours):
        first, second = pieces.scores[:, sample].T
        axes.plot(first, second, color=colour, linewidth=0.9, alpha=0.8)
        axes.plot(first[:1], second[:1], "o", color=colour, markersize=3, markerfacecolor="white")
        axes.plot(first[-1:], second[-1:], "o", color=colour, markersize=4)
    first, second = (f"{100 * share:.3g} % of the variance" for share in pieces.shares.tolist())
    axes.set(xlabel=f"first component ({first})", ylabel=f"second component ({second})")
    axes.set(title="state: principal components, ○ first time, ● last time")


def _sample_colours(count: int, labels: Tensor | None) -> list[Any]:
    if labels is None:
        return [colormaps["viridis"](number / max(1, count - 1)) for number in range(count)]
    classes = labels.unique().tolist()
    if len(classes) <= MOST_CLASSES:
        return [colormaps["tab10"](classes.index(label)) for label in labels.tolist()]
    return [colormaps["turbo"](classes.index(label) / (len(classes) - 1)) for label in labels.tolist()]


def _legend_of_samples(axes: Any, colours: Sequence[Any], labels: Tensor | None) -> None:
    if labels is None or len(labels.unique()) > MOST_CLASSES:
        return
    named = dict(sorted(zip(labels.tolist(), colours, strict=True)))
    handles = [Line2D([], [], color=colour, label=str(label)) for label, colour in named.items()]
    axes.legend(handles=handles, title="class", loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")


def precision(tests: Sequence[Tested]) -> Figure:
    """The test metric against NFE for each solver. A star marks the checkpoint's own solver."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    finite = [each for each in tests if math.isfinite(each.value)]
    varied = [each for each in finite if not each.trained]
    markers = dict(zip(dict.fromkeys(each.solver for each in varied), "os^DvP<>X" * len(varied), strict=False))
    for solver, marker in markers.items():
        points = sorted((each.nfe, each.value) for each in varied if each.solver == solver)
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=6, label=solver)
    for each in finite:
        if each.trained:
            name = f"as trained: {each.solver}"
            axes.plot(each.nfe, each.value, "*", color="black", markersize=14, label=name, zorder=3)
    metric = next((each.metric for each in finite), "test/loss")
    axes.set(xlabel="NFE forward", ylabel="test error in percent" if "percent" in metric else metric)
    _scale_by_logarithm(axes, "x")
    spread = _spread([each.value for each in finite])
    if spread > 1e4:
        axes.set(yscale="log")
    elif spread > 10:
        _scale_by_logarithm(axes, "y")
    axes.set(title="one checkpoint under several solvers")
    axes.grid(alpha=0.3)
    if finite:
        axes.legend(fontsize="small")
    else:
        _note(axes, "no solver reached a finite result")
    return figure


def evolution(start: Moment) -> tuple[Figure, Callable[[Moment], None]]:
    """A figure of a density beside its samples, and a function that updates it to another moment.

    Args:
        start: The initial moment.
    """
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    square = (-start.reach, start.reach)
    image = left.imshow(start.p.numpy(), origin="lower", extent=(*square, *square), cmap="magma", vmin=0)
    points = right.scatter(*start.x.T.numpy(), s=4, linewidths=0, color="C0", alpha=0.7)
    left.set(title="density")
    right.set(title=f"{len(start.x)} samples")
    for axes in (left, right):
        axes.set(xlim=square, ylim=square, aspect="equal", xlabel="$x_1$", ylabel="$x_2$")

    def show(moment: Moment) -> None:
        image.set_data(moment.p.numpy())
        image.set_clim(0, moment.p.max().item())
        points.set_offsets(moment.x.numpy())
        figure.suptitle(f"{100 * moment.progress:3.0f} % of the way from base to data: {moment.entropy:.2f} nats")

    show(start)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout engine would take most of the time of each frame
    return figure, show


def images(named: Mapping[str, Tensor]) -> Figure:
    """Panels of images, arranged in grids; 0 is dark.

    Args:
        named: Images by title, (B, C, H, W) in [0, 1]; RGB if C is 3, otherwise grey.
    """
    figure = Figure(figsize=(4.2 * len(named), 4.5), layout="constrained")
    panels = figure.subplots(1, len(named), squeeze=False)[0]
    for axes, (title, x) in zip(panels, named.items(), strict=True):
        axes.imshow(_mosaic(x.detach().float().cpu().clamp(0, 1)).numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
        axes.set(title=f"{len(x)} {title}")
    return figure


def _mosaic(x: Tensor) -> Tensor:
    """The images in a nearly square grid: (height, width) or (height, width, 3)."""
    columns = math.ceil(math.sqrt(len(x)))
    x = x if x.shape[1] in (1, 3) else x.mean(1, keepdim=True)
    missing = x.new_zeros(-len(x) % columns, *x.shape[1:])
    rows = torch.cat([x, missing]).unflatten(0, (-1, columns))  # (rows, columns, C, H, W)
    return rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).squeeze(-1)


def _scale_by_logarithm(axes: Any, name: str) -> None:
    """Makes the axis "x" or "y" logarithmic, with ticks at 1, 2, 5, 10, …."""
    axes.set(**{f"{name}scale": "log"})
    axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _spread(values: Sequence[float]) -> float:
    """Ratio of the largest to the smallest finite value; 1, hence no logarithmic axis, if one is not positive."""
    finite = [value for value in values if math.isfinite(value)]
    return max(finite) / min(finite) if finite and min(finite) > 0 else 1


def _power(value: float) -> str:
    """A number as text, powers of ten as 10ⁿ."""
    exponent = math.log10(value)
    return f"$10^{{{round(exponent)}}}$" if abs(exponent - round(exponent)) < 1e-9 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _note(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.4")
    axes.set(xticks=[], yticks=[])
