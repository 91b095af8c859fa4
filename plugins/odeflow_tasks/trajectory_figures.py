"""Figures of trajectories: truth and prediction, the learned field, forecasts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow_tasks.drawing import BASELINE, PREDICTION, SECOND, TRUTH, legend_above, limits, numbers
from odeflow_tasks.file_units import FileUnits
from odeflow_tasks.phase_portrait import draw_field

MOMENTS = 10001
"""Number of times of an extrapolation."""
MOST_MARKED = 100
"""Maximum number of observations with markers; more are drawn as a line."""
MOST_CURVES = 4
"""Maximum number of states in a figure over time."""


def portrait(flow: of.Flow, states: Sequence[str], batch: of.Series, prediction: Tensor, file: FileUnits) -> Figure:
    """Truth beside prediction over time and, in two dimensions or more, in phase space, and the learned field.

    Args:
        flow: The flow with the learned field.
        states: The names of the states.
        batch: The truth, of which the first trajectory is drawn.
        prediction: (B, T, d).
        file: The units of the figure.
    """
    driven = batch.covariates is not None or batch.static is not None  # then the field depends on the input, too
    figure, over_time, planes = _panels(states, 1 if driven else 2)
    times, truth, predicted = _first(batch, prediction, file)
    _draw_over_time(over_time, times, truth, {"prediction": predicted}, file)
    if planes:
        low, high = _plane_limits(truth, predicted)
        _draw_truth(planes[0], truth)
        planes[0].plot(*predicted[:, :2].T, "--", color=PREDICTION, label="prediction")
        _mark_ends(planes[0], predicted)
        planes[0].set(title="phase portrait", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        if not driven:
            streams = draw_field(planes[1], flow, prediction[0].mean(0), low, high, file.units, density=1.2)
            figure.colorbar(streams, ax=planes[1], label="$\\log_{10}$ speed")
            planes[1].set(title="learned field")
    legend_above(figure, *over_time, *planes)
    return figure


def forecast(states: Sequence[str], batch: of.Series, prediction: Tensor, file: FileUnits) -> Figure:
    """The truth, the forecast, and the persistence forecast, over time and in phase space.

    Args:
        states: The names of the states.
        batch: The truth, of which the first trajectory is drawn.
        prediction: (B, T, d).
        file: The units of the figure.
    """
    figure, over_time, planes = _panels(states, 1)
    times, truth, predicted = _first(batch, prediction, file)
    seen = numbers(file.values(batch.y[0]).masked_fill(~batch.seen[0], np.nan))[: len(truth)]
    known = np.flatnonzero(~np.isnan(seen).all(1))
    now = int(known[-1]) if len(known) else 0
    last = np.array([column[~np.isnan(column)][-1] if (~np.isnan(column)).any() else np.nan for column in seen.T])
    persisted = np.where(np.arange(len(truth))[:, None] >= now, last, np.nan)
    _draw_over_time(over_time, times, truth, {"forecast": predicted, "persistence": persisted}, file)
    for axes in over_time if now else ():
        axes.axvline(times[now], color="0.8", linewidth=0.8, zorder=0)
    if planes:
        _draw_truth(planes[0], truth)
        planes[0].plot(*predicted[:, :2].T, "--", color=PREDICTION, label="forecast")
        _mark_ends(planes[0], predicted)
        if now:
            planes[0].plot(*predicted[now, :2], "D", color=SECOND, markersize=5, label="last observation", zorder=4)
        planes[0].set(title="phase portrait")
    legend_above(figure, *over_time, *planes)
    return figure


def course(states: Sequence[str], batch: of.Series, predicted: of.Series, file: FileUnits) -> Figure:
    """A forecast beyond the observations, over time and in phase space, darkening with time.

    Args:
        states: The names of the states.
        batch: The truth, of which the first trajectory is drawn.
        predicted: The forecast with its times.
        file: The units of the figure.
    """
    figure, over_time, planes = _panels(states, 1, width=7.5)
    times, truth, _ = _first(batch, batch.y, file)
    late, future, _ = _first(predicted, predicted.y, file)
    for number, axes in enumerate(over_time):
        axes.plot(late, future[:, number], color=PREDICTION, linewidth=0.8, label="forecast")
        axes.plot(times, truth[:, number], color=TRUTH, linewidth=0.8, linestyle=":", zorder=3, label="truth")
        axes.axvspan(times[0], times[-1], color="0.9", zorder=0, label="observed")
        axes.set(xlim=(late[0], late[-1]))
    file.label_times(over_time[-1])
    over_time[0].set(title=f"until {file.told(late[-1])}")
    if planes:
        points = future[:, None, :2]
        pieces = list(np.concatenate([points[:-1], points[1:]], axis=1))
        line = LineCollection(pieces, array=numbers(predicted.t[0])[: len(late) - 1], cmap="viridis_r")
        planes[0].add_collection(line)
        planes[0].plot(*truth[:, :2].T, color=TRUTH, linewidth=0.8, linestyle=":", label="truth")
        planes[0].autoscale()
        _mark_ends(planes[0], future)
        planes[0].set(title="phase portrait of the forecast")
        figure.colorbar(line, ax=planes[0], label="$t$ of the model")
    legend_above(figure, *over_time, *planes)
    return figure


def _panels(states: Sequence[str], count: int, width: float = 4.5) -> tuple[Figure, list[Any], list[Any]]:
    """A figure, its panels over time, one above another for each state, and `count` panels of a plane of two states."""
    rows = min(len(states), MOST_CURVES)
    widths = [width] + [4.6] * (count if len(states) > 1 else 0)
    figure = Figure(figsize=(sum(widths), max(4.4, 0.6 + 1.6 * rows)), layout="constrained")
    grid = figure.add_gridspec(rows, len(widths), width_ratios=widths)
    over_time: list[Any] = []
    for row in range(rows):
        axes = figure.add_subplot(grid[row, 0], sharex=over_time[0] if over_time else None)
        axes.set(ylabel=states[row])
        axes.tick_params(labelbottom=row == rows - 1)
        over_time.append(axes)
    planes = [figure.add_subplot(grid[:, 1 + number]) for number in range(len(widths) - 1)]
    for axes in planes:
        axes.set(xlabel=states[0], ylabel=states[1])
    return figure, over_time, planes


def _first(batch: of.Series, prediction: Tensor, file: FileUnits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The times (T,) of the first trajectory, and its states (T, d), true, nan where not observed, and predicted."""
    observed = batch.seen[0] | batch.target[0]
    length = int((batch.t[0] != batch.t[0, -1]).sum()) + 1
    truth = numbers(file.values(batch.y[0]).masked_fill(~observed, np.nan))
    return file.times(batch.t[0])[:length], truth[:length], numbers(file.values(prediction[0]))[:length]


def _plane_limits(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The limits of the truth in the plane of the first two states, of the prediction where nothing was observed."""
    plane = truth[:, :2][~np.isnan(truth[:, :2]).any(1)]
    return limits(plane if len(plane) else predicted[:, :2])


def _draw_truth(axes: Any, truth: np.ndarray) -> None:
    """The observations in the plane of the first two states, if both were observed together."""
    plane = truth[:, :2][~np.isnan(truth[:, :2]).any(1)]
    if len(plane):
        axes.plot(*plane.T, _line(plane), color=TRUTH, markersize=4, linewidth=1, label="truth")


def _mark_ends(axes: Any, path: np.ndarray) -> None:
    """Marks the start and the end of a prediction in the plane."""
    style = {"color": PREDICTION, "markeredgecolor": "white", "linestyle": "", "zorder": 3}
    axes.plot(*path[:1, :2].T, marker="o", markersize=8, label="start", **style)
    axes.plot(*path[-1:, :2].T, marker="s", markersize=7, label="end", **style)


def _draw_over_time(
    panels: Sequence[Any], times: np.ndarray, truth: np.ndarray, others: dict[str, np.ndarray], file: FileUnits
) -> None:
    """A state in each panel: observations, with gaps closed by lines, and predictions."""
    looks = ({"color": PREDICTION, "linestyle": "--"}, {"color": BASELINE, "linestyle": ":"})
    for number, axes in enumerate(panels):
        seen = ~np.isnan(truth[:, number])
        if seen.any():
            axes.plot(
                times[seen],
                truth[seen, number],
                _line(truth[seen]),
                color=TRUTH,
                markersize=4,
                linewidth=1,
                label="truth",
            )
        for (name, values), look in zip(others.items(), looks, strict=False):
            if not np.isnan(values[:, number]).all():
                axes.plot(times, values[:, number], label=name, **look)
    file.label_times(panels[-1])
    panels[0].set(title="over time")


def _line(truth: np.ndarray) -> str:
    return ".-" if len(truth) <= MOST_MARKED else "-"
