"""Figures of a regression: the flow of the inputs, coloured by their targets."""

from typing import Any

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow.analysis.measure import components
from odeflow_tasks.drawing import legend_above, limits, numbers
from odeflow_tasks.file_units import FileUnits

MOST_CURVES, MOST_POINTS = 100, 1000
"""Maximum numbers of samples in a figure."""
GREY = "0.75"


def trajectories(flow: of.Flow, x: Tensor, targets: Tensor, file: FileUnits, compared: bool) -> Figure:
    """The first feature over time, above its direction field, and states with more features in the plane.

    Args:
        flow: The flow.
        x: (B, 1), the inputs.
        targets: (B, k), of which the first value gives the colour.
        file: The unit of the colours.
        compared: Whether the first feature is the prediction of the first target.
    """
    x, targets, options = x[:MOST_CURVES], targets[:MOST_CURVES], flow.options
    t = torch.linspace(options.t0, options.t1, 61, device=x.device)
    y = flow.trajectory(x, t).y
    wide = y.shape[2] > 1
    figure = Figure(figsize=(11 if wide else 6.2, 4.4), layout="constrained")
    panels = figure.subplots(1, 1 + wide, squeeze=False)[0]
    times, wanted = numbers(t), numbers(targets[:, 0])
    colours, shown = _colours(targets, file)
    first = numbers(y[:, :, 0])
    values = np.concatenate([first.ravel(), wanted]) if compared else first.ravel()
    _draw_directions(flow, panels[0], t, y, *limits(values))
    for number, colour in enumerate(colours.to_rgba(shown)):
        panels[0].plot(times, first[:, number], color=colour, linewidth=1.8)
        panels[0].plot(times[:1], first[:1, number], "o", color=colour, markersize=6, clip_on=False, zorder=3)
    if compared:
        ends = np.full_like(wanted, times[-1])
        marks = {"marker": "X", "s": 70, "edgecolors": "black", "linewidths": 0.6, "clip_on": False, "zorder": 4}
        panels[0].scatter(ends, wanted, c=colours.to_rgba(shown), **marks)
        panels[0].scatter([], [], c="0.5", label="target", **marks)
    panels[0].plot([], [], color=GREY, label="field, other features at their mean" if wide else "learned field")
    panels[0].plot([], [], "o", color="0.5", label="start")
    panels[0].set(xlabel="$t$", ylabel="$y_1$", title="trajectories over time")
    if wide:
        _draw_plane(panels[1], y, colours.to_rgba(shown))
    figure.colorbar(colours, ax=panels[-1], label=file.target(0))
    legend_above(figure, *panels)
    return figure


def _draw_directions(flow: of.Flow, axes: Any, t: Tensor, y: Tensor, low: np.ndarray, high: np.ndarray) -> None:
    """The direction field of the first feature over (t, y₁), the other features at their mean at each time."""
    heights = np.linspace(low, high, 25)
    dynamics = flow.dynamics
    assert isinstance(dynamics, of.Dynamics)
    columns: list[np.ndarray] = []
    for time, states in zip(t[::2], y[::2], strict=True):
        points = states.mean(0).repeat(len(heights), 1)
        points[:, 0] = torch.from_numpy(heights).to(points)
        columns.append(numbers(dynamics.leave(dynamics(time, dynamics.enter(points)))[:, 0]))
    moments = numbers(t[::2])
    directions = np.stack(columns, axis=1)
    if moments[-1] < moments[0]:
        moments, directions = moments[::-1], directions[:, ::-1]
    along = np.ones_like(directions)
    axes.streamplot(moments, heights, along, directions, color=GREY, linewidth=0.8, density=1.1, arrowsize=0.8)
    axes.set(xlim=moments[[0, -1]], ylim=(low, high))


def features(flow: of.Flow, x: Tensor, targets: Tensor, file: FileUnits) -> Figure:
    """The inputs beside the flow's outputs, in the plane and, if the state has more features, in space.

    Args:
        flow: The flow.
        x: (B, d), the inputs.
        targets: (B, k), of which the first value gives the colour.
        file: The units of inputs and colours.
    """
    x, targets = x[:MOST_POINTS], targets[:MOST_POINTS]
    y = flow(x)
    wide = y.shape[1] > 2
    figure = Figure(figsize=(14 if wide else 9.5, 4.4), layout="constrained")
    colours, shown = _colours(targets, file)
    style: dict[str, Any] = {"c": shown, "cmap": colours.cmap, "norm": colours.norm, "s": 7}
    panels: list[Any] = [figure.add_subplot(1, 2 + wide, number) for number in (1, 2)]
    panels[0].scatter(*numbers(file.values(x)[:, :2]).T, **style)
    panels[0].set(xlabel=file.name(0, "x"), ylabel=file.name(1, "x"), title="input")
    panels[1].scatter(*numbers(y[:, :2]).T, **style)
    panels[1].set(xlabel="$y_1$", ylabel="$y_2$", title="end of the flow")
    for axes in panels if file.comparable else panels[1:]:
        axes.set_aspect("equal", "datalim")
    if wide:
        panels.append(figure.add_subplot(1, 3, 3, projection="3d"))
        points, names = _projected(y, 3)
        panels[2].scatter(*points.T, **style)
        panels[2].set(**dict(zip(("xlabel", "ylabel", "zlabel"), names, strict=True)), title="end, in space")
        panels[2].zaxis.labelpad = 8
    figure.colorbar(colours, ax=panels, label=file.target(0), pad=0.1 if wide else 0.03)
    return figure


def _colours(targets: Tensor, file: FileUnits) -> tuple[ScalarMappable, np.ndarray]:
    """A colour map from the smallest first target to the largest, and these, (B,), in the file's units."""
    shown = numbers(file.targets(targets)[:, 0])
    return ScalarMappable(Normalize(shown.min(), shown.max()), "coolwarm"), shown


def _projected(y: Tensor, count: int) -> tuple[np.ndarray, list[str]]:
    """States (…, width) projected to at most `count` dimensions, and the names of these.

    The dimensions are the features if there are at most `count`, otherwise the first principal components.
    """
    width = y.shape[-1]
    if width <= count:
        return numbers(y), [f"$y_{number + 1}$" for number in range(width)]
    found = components(y, count)
    return numbers(found.scores), found.names


def _draw_plane(axes: Any, y: Tensor, colours: np.ndarray) -> None:
    """Trajectories (T, B, width) in the plane of two features, or of the first two principal components."""
    points, names = _projected(y, 2)
    for path, colour in zip(points.swapaxes(0, 1), colours, strict=True):
        axes.plot(*path.T, color=colour, linewidth=1.8)
        axes.plot(*path[0], "o", color=colour, markersize=6)
        axes.plot(*path[-1], "s", color=colour, markersize=6)
    axes.plot([], [], "s", color="0.5", label="end")
    axes.set(xlabel=names[0], ylabel=names[1], title="trajectories in the plane")
