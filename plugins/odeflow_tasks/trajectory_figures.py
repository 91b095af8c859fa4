"""Figures of trajectories: truth and prediction, the learned field, forecasts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow_tasks.drawing import limits, numbers
from odeflow_tasks.file_units import FileUnits
from odeflow_tasks.phase_portrait import draw_field

MOMENTS = 10001
"""Number of times of an extrapolation."""
MOST_MARKED = 100
"""Maximum number of observations with markers; more are drawn as a line."""
MOST_CURVES = 3
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
    figure, panels = _panels(states, 2 if driven else 3)
    times, truth, predicted = _first(batch, prediction, file)
    _draw_over_time(panels[0], states, times, truth, {"prediction": predicted}, file)
    if len(panels) > 1:
        low, high = _plane_limits(truth, predicted)
        _draw_truth(panels[1], truth)
        panels[1].plot(*predicted[:, :2].T, "--", color="tab:blue", label="prediction")
        panels[1].plot(*predicted[0, :2], "o", color="black", markersize=4)
        panels[1].set(title="phase portrait", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        panels[1].legend(fontsize="small", loc="upper right")
        if not driven:
            draw_field(panels[2], flow, prediction[0].mean(0), low, high, file.units, density=1.2)
            panels[2].set(title="learned field")
    return figure


def forecast(states: Sequence[str], batch: of.Series, prediction: Tensor, file: FileUnits) -> Figure:
    """The truth, the forecast, and the persistence forecast, over time and in phase space.

    Args:
        states: The names of the states.
        batch: The truth, of which the first trajectory is drawn.
        prediction: (B, T, d).
        file: The units of the figure.
    """
    figure, panels = _panels(states, 2)
    times, truth, predicted = _first(batch, prediction, file)
    seen = numbers(file.values(batch.y[0]).masked_fill(~batch.seen[0], np.nan))[: len(truth)]
    known = np.flatnonzero(~np.isnan(seen).all(1))
    now = int(known[-1]) if len(known) else 0
    last = np.array([column[~np.isnan(column)][-1] if (~np.isnan(column)).any() else np.nan for column in seen.T])
    persisted = np.where(np.arange(len(truth))[:, None] >= now, last, np.nan)
    _draw_over_time(panels[0], states, times, truth, {"forecast": predicted, "persistence": persisted}, file)
    if now:
        panels[0].axvline(times[now], color="0.6", linewidth=0.8)
    if len(panels) > 1:
        _draw_truth(panels[1], truth)
        panels[1].plot(*predicted[:, :2].T, "--", color="tab:blue", label="forecast")
        panels[1].plot(*predicted[now, :2], "o", color="black", markersize=5, label="now")
        panels[1].set(title="phase portrait")
        panels[1].legend(fontsize="small", loc="best")
    return figure


def course(states: Sequence[str], batch: of.Series, predicted: of.Series, file: FileUnits) -> Figure:
    """A forecast beyond the observations, over time and in phase space, darkening with time.

    Args:
        states: The names of the states.
        batch: The truth, of which the first trajectory is drawn.
        predicted: The forecast with its times.
        file: The units of the figure.
    """
    figure, panels = _panels(states, 2, width=7.5)
    times, truth, _ = _first(batch, batch.y, file)
    late, future, _ = _first(predicted, predicted.y, file)
    for number in range(min(truth.shape[1], MOST_CURVES)):
        panels[0].plot(late, future[:, number], linewidth=0.8, label=f"forecast {states[number]}")
        panels[0].plot(times, truth[:, number], color="black", linewidth=0.8, linestyle=":", zorder=3)
    panels[0].axvspan(times[0], times[-1], color="0.9", zorder=0, label="observed")
    file.label_times(panels[0])
    panels[0].set(ylabel=_values_label(states), title=f"until {file.told(late[-1])}", xlim=(late[0], late[-1]))
    panels[0].legend(fontsize="small", loc="upper right")
    if len(panels) > 1:
        points = future[:, None, :2]
        pieces = list(np.concatenate([points[:-1], points[1:]], axis=1))
        line = LineCollection(pieces, array=numbers(predicted.t[0])[: len(late) - 1], cmap="viridis_r")
        panels[1].add_collection(line)
        panels[1].plot(*truth[:, :2].T, color="black", linewidth=0.8, linestyle=":", label="observed")
        panels[1].plot(*future[0, :2], "o", color="black", markersize=5)
        panels[1].autoscale()
        panels[1].set(title="phase portrait")
        panels[1].legend(fontsize="small", loc="upper right")
        figure.colorbar(line, ax=panels[1], label="$t$ of the model")
    return figure


def _panels(states: Sequence[str], count: int, width: float = 4.5) -> tuple[Figure, Any]:
    """A figure with `count` panels, or one for a one-dimensional state."""
    plane = len(states) > 1
    widths = [width] + [4.3] * (count - 1) * plane
    figure = Figure(figsize=(sum(widths), 4), layout="constrained")
    panels = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    for axes in panels[1:]:
        axes.set(xlabel=states[0], ylabel=states[1])
    return figure, panels


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
        axes.plot(*plane.T, _line(plane), color="tab:green", markersize=4, label="truth")


def _draw_over_time(
    axes: Any,
    states: Sequence[str],
    times: np.ndarray,
    truth: np.ndarray,
    others: dict[str, np.ndarray],
    file: FileUnits,
) -> None:
    """Observations of each state, with gaps closed by lines, and predictions in the same colour."""
    styles = dict(zip(others, ("--", ":"), strict=False))
    for number in range(min(truth.shape[1], MOST_CURVES)):
        seen = ~np.isnan(truth[:, number])
        label = f"truth {states[number]}" if seen.any() else None
        (line,) = axes.plot(times[seen], truth[seen, number], _line(truth[seen]), markersize=4, label=label)
        for name, values in others.items():
            if np.isnan(values[:, number]).all():
                continue
            label = name if seen.any() else f"{name} {states[number]}"
            axes.plot(times, values[:, number], styles[name], color=line.get_color(), label=label)
    file.label_times(axes)
    axes.set(ylabel=_values_label(states), title="over time")
    axes.legend(fontsize="small", loc="upper right")


def _values_label(states: Sequence[str]) -> str:
    """The label of an axis of values: the state if it is the only one."""
    return states[0] if len(states) == 1 else "$y$"


def _line(truth: np.ndarray) -> str:
    return ".-" if len(truth) <= MOST_MARKED else "-"
