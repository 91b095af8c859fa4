"""Figures of a shooting search: the paths of the iterations and their distances from the target."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

import odeflow as of
from odeflow_tasks.drawing import PREDICTION, TRUTH, limits
from odeflow_tasks.phase_portrait import draw_field


def draw(
    flow: of.Flow,
    paths: dict[int, Tensor],
    times: Tensor,
    target: Tensor,
    plane: tuple[int, int] | None,
    distances: Sequence[float],
) -> Figure:
    """The paths in a plane, from bright to dark, with starts (●) and targets (×), beside the distances.

    A target with a single fixed entry is a line. A state with two entries is drawn above its field.

    Args:
        flow: The flow.
        paths: (M, 1 + d), times and states, by the number of iterations before.
        times: (K,), the times of the targets.
        target: (K, d), nan for free entries.
        plane: Indices of the plotted entries; None for the first two, or for a single entry over time.
        distances: The distance at each iteration.
    """
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    panels: Any = figure.subplots(1, 2, width_ratios=(3, 2))
    axes, over_tries = panels
    size = target.shape[1]
    columns = (0, 1) if size == 1 else tuple(1 + entry for entry in plane or (0, 1))
    names = ["$t$", *(f"$y_{number + 1}$" for number in range(size))]
    drawn = {number: path[:, columns].numpy() for number, path in sorted(paths.items())}
    goals = np.concatenate([times[:, None].numpy(), target.numpy()], axis=1)[:, columns]
    places = np.concatenate([*drawn.values(), goals[~np.isnan(goals).any(axis=1)]])
    low, high = limits(places)
    if size == 2:
        rest = next(iter(paths.values()))[0, 1:]
        rest, (left, right) = rest.to(next(flow.parameters(), rest)), columns
        if (left, right) == (1, 2):
            draw_field(axes, flow, rest, low, high, color="0.85", density=1.2, arrowsize=0.8)
    for place, (number, path) in enumerate(drawn.items()):
        colour = colormaps["viridis_r"](0.1 + 0.9 * place / max(1, len(drawn) - 1))
        width = 2.2 if place in (0, len(drawn) - 1) else 1.0
        axes.plot(*path.T, color=colour, linewidth=width, label=_name(number, len(distances)))
        axes.plot(*path[0], "o", color=colour, markersize=6, zorder=3)
    axes.plot([], [], "o", color="0.5", label="start")
    for number, goal in enumerate(goals):
        _draw_goal(axes, goal, "target" if number == 0 else None)
    axes.set(xlabel=names[columns[0]], ylabel=names[columns[1]], title="paths, darker with the tries")
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    over_tries.semilogy(
        range(1, 1 + len(distances)), np.maximum(distances, 1e-12), ".-", color=PREDICTION, markersize=4
    )
    over_tries.set(xlabel="try", ylabel="distance", title="distance from the target")
    over_tries.xaxis.set_major_locator(MaxNLocator(integer=True))
    over_tries.grid(alpha=0.3)
    return figure


def _name(number: int, tries: int) -> str:
    return "first" if number == 0 else f"after {number}" if number < tries else f"now, after {number}"


def _draw_goal(axes: Any, goal: np.ndarray, label: str | None) -> None:
    """Draws a target: a point, or a line if one of the two entries is free."""
    across, up = goal
    style: dict[str, Any] = {"color": TRUTH, "zorder": 4, "label": label}
    if not np.isnan(goal).any():
        axes.plot(across, up, "x", markersize=11, markeredgewidth=2.5, **style)
    elif not np.isnan(up):
        axes.axhline(up, linestyle="--", **style)
    elif not np.isnan(across):
        axes.axvline(across, linestyle="--", **style)
