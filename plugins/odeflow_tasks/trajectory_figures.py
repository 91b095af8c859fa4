"""Figures of trajectories: truth and prediction, the learned field, forecasts."""

from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow_tasks.drawing import limits, numbers
from odeflow_tasks.phase_portrait import draw_field

MOMENTS = 10001
"""Number of times of an extrapolation."""
MOST_MARKED = 100
"""Maximum number of observations with markers; more are drawn as a line."""
MOST_CURVES = 3
"""Maximum number of features in a figure over time."""


def portrait(flow: of.Flow, batch: of.Trajectories, prediction: Tensor) -> Figure:
    """Truth beside prediction over time and, in two dimensions or more, in phase space, and the learned field.

    Args:
        flow: The flow with the learned field.
        batch: The truth, of which the first trajectory is drawn.
        prediction: (T, B, d).
    """
    figure, panels = _panels(batch, 3)
    times, truth, predicted = _first(batch, prediction)
    _draw_over_time(panels[0], times, truth, {"prediction": predicted})
    if len(panels) > 1:
        low, high = limits(truth[:, :2])
        panels[1].plot(*truth[:, :2].T, _line(truth), color="tab:green", markersize=4, label="truth")
        panels[1].plot(*predicted[:, :2].T, "--", color="tab:blue", label="prediction")
        panels[1].plot(*truth[0, :2], "o", color="black", markersize=4)
        panels[1].set(title="phase portrait", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        panels[1].legend(fontsize="small", loc="upper right")
        draw_field(panels[2], flow, batch.y[:, 0].mean(0), low, high, density=1.2)
        panels[2].set(title="learned field")
    return figure


def forecast(batch: of.Trajectories, prediction: Tensor) -> Figure:
    """The truth, the forecast, and the persistence forecast, over time and in phase space.

    Args:
        batch: The truth, of which the first trajectory is drawn.
        prediction: (T, B, d).
    """
    figure, panels = _panels(batch, 2)
    times, truth, predicted = _first(batch, prediction)
    _draw_over_time(
        panels[0], times, truth, {"forecast": predicted, "persistence": np.tile(truth[:1], (len(truth), 1))}
    )
    if len(panels) > 1:
        panels[1].plot(*truth[:, :2].T, _line(truth), color="tab:green", markersize=4, label="truth")
        panels[1].plot(*predicted[:, :2].T, "--", color="tab:blue", label="forecast")
        panels[1].plot(*truth[0, :2], "o", color="black", markersize=5, label="now")
        panels[1].set(title="phase portrait")
        panels[1].legend(fontsize="small", loc="best")
    return figure


def course(batch: of.Trajectories, foretold: of.Trajectories) -> Figure:
    """A forecast beyond the observations, over time and in phase space, darkening with time.

    Args:
        batch: The truth, of which the first trajectory is drawn.
        foretold: The forecast with its times.
    """
    figure, panels = _panels(batch, 2, width=7.5)
    times, truth, _ = _first(batch, batch.y)
    late, predicted, _ = _first(foretold, foretold.y)
    for number in range(min(truth.shape[1], MOST_CURVES)):
        panels[0].plot(late, predicted[:, number], linewidth=0.8, label=f"forecast $y_{number + 1}$")
        panels[0].plot(times, truth[:, number], color="black", linewidth=0.8, linestyle=":", zorder=3)
    panels[0].axvspan(times[0], times[-1], color="0.9", zorder=0, label="observed")
    panels[0].set(xlabel="$t$", ylabel="$y$", title=f"until $t$ = {late[-1]:g}", xlim=(late[0], late[-1]))
    panels[0].legend(fontsize="small", loc="upper right")
    if len(panels) > 1:
        points = predicted[:, None, :2]
        pieces = list(np.concatenate([points[:-1], points[1:]], axis=1))
        line = LineCollection(pieces, array=late[:-1], cmap="viridis_r")
        panels[1].add_collection(line)
        panels[1].plot(*truth[:, :2].T, color="black", linewidth=0.8, linestyle=":", label="observed")
        panels[1].plot(*truth[0, :2], "o", color="black", markersize=5)
        panels[1].autoscale()
        panels[1].set(title="phase portrait")
        panels[1].legend(fontsize="small", loc="upper right")
        figure.colorbar(line, ax=panels[1], label="$t$")
    return figure


def _panels(batch: of.Trajectories, count: int, width: float = 4.5) -> tuple[Figure, Any]:
    """A figure with `count` panels, or one for a one-dimensional state."""
    plane = batch.y.shape[2] > 1
    widths = [width] + [4.3] * (count - 1) * plane
    figure = Figure(figsize=(sum(widths), 4), layout="constrained")
    panels = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    for axes in panels[1:]:
        axes.set(xlabel="$y_1$", ylabel="$y_2$")
    return figure, panels


def _first(batch: of.Trajectories, prediction: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The times (T,), and the first trajectory (T, d), true and predicted."""
    times, truth, predicted = map(numbers, (batch.t, batch.y, prediction))
    return times, truth[:, 0], predicted[:, 0]


def _draw_over_time(axes: Any, times: np.ndarray, truth: np.ndarray, others: dict[str, np.ndarray]) -> None:
    styles = dict(zip(others, ("--", ":"), strict=False))
    for number in range(min(truth.shape[1], MOST_CURVES)):
        (line,) = axes.plot(times, truth[:, number], _line(truth), markersize=4, label=f"truth $y_{number + 1}$")
        for name, values in others.items():
            axes.plot(times, values[:, number], styles[name], color=line.get_color(), label=name)
    axes.set(xlabel="$t$", ylabel="$y$", title="over time")
    axes.legend(fontsize="small", loc="upper right")


def _line(truth: np.ndarray) -> str:
    return ".-" if len(truth) <= MOST_MARKED else "-"
