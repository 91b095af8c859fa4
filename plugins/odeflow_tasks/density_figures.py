"""Figures of a learned density beside its data."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

import odeflow as of
from odeflow.analysis.plots import images
from odeflow_tasks.drawing import PREDICTION, TRUTH, legend_above, limits, numbers
from odeflow_tasks.file_units import FileUnits

MOST_POINTS, MOST_LINES, MOST_PAIRS, MOST_IMAGES = 2000, 100, 5, 64
"""Maximum numbers of points, of flow lines, of features in a pair plot, and of images in a figure."""
MOMENTS = 6
"""Number of times at which the evolution of the density is shown."""
FINE, COARSE = 150, 80
"""Grid points per side of a density plot, for a single panel and for several in a row."""
DEPTH = 10
"""Range of the log-density plot below its maximum, in nats."""


def draw(cnf: of.CNF, x: Tensor, file: FileUnits, condition: Tensor | None = None) -> dict[str, Figure]:
    """Figures by name: samples of images; in the plane also density, evolution, flow lines and base; else marginals.

    Args:
        cnf: The flow, from the base to the data.
        x: (B, d) or (B, C, H, W), data.
        file: The names and units of marginals.
        condition: (B, c), the conditions of the data, if any: samples are drawn given them, and beside vectors they are
            drawn, too.
    """
    if x.dim() == 4:
        x, given = x[:MOST_IMAGES], None if condition is None else condition[:MOST_IMAGES]
        drawn = cnf(given).sample(torch.Size([len(x)] if given is None else []))
        return {"samples": images({"data": x, "samples": drawn.view(x.shape)})}
    names = [file.name(number, "x") for number in range(x.shape[1])]
    if condition is not None:
        x, condition = x[:MOST_POINTS], condition[:MOST_POINTS]
        names += [f"condition {number + 1}" for number in range(condition.shape[1])]
        drawn, x = (torch.cat([file.values(each), condition], 1) for each in (cnf(condition).sample(), x))
        return {"marginals": marginals(drawn, x, names)}
    x = x[:MOST_POINTS]
    if x.shape[1] != 2:
        drawn = file.values(cnf().sample(torch.Size([len(x)])))
        return {"marginals": marginals(drawn, file.values(x), names)}
    window = _window(x)
    return {
        "samples": samples(cnf, x, window),
        "density": density(cnf, x, window),
        "evolution": evolution(cnf, window),
        "flow_lines": flow_lines(cnf, window),
        "base": base(cnf, x, window),
    }


def without_density(cnf: of.CNF, x: Tensor) -> dict[str, Figure]:
    """Figures of a flow in the plane whose source can be drawn from only: samples, their lines and the source.

    Args:
        cnf: The flow.
        x: (B, 2), data.
    """
    x = x[:MOST_POINTS]
    window = _window(x)
    return {"samples": samples(cnf, x, window), "flow_lines": flow_lines(cnf, window), "base": base(cnf, x, window)}


def samples(cnf: of.CNF, x: Tensor, window: tuple[float, float]) -> Figure:
    """Samples beside the same number of data points."""
    figure, panels = _panels(2, window)
    drawn = cnf().sample(torch.Size([len(x)]))
    shown = ((x, "data", TRUTH), (drawn, "samples", PREDICTION))
    for axes, (points, title, colour) in zip(panels, shown, strict=True):
        axes.scatter(*numbers(points).T, s=5, linewidths=0, color=colour, alpha=0.7)
        axes.set(title=f"{len(points)} {title}")
    return figure


def density(cnf: of.CNF, x: Tensor, window: tuple[float, float]) -> Figure:
    """The density on a grid, and its logarithm below the data."""
    figure, panels = _panels(2, window)
    log_p = _on_grid(cnf, window, FINE, x)
    image = _show(panels[0], np.exp(log_p), window, vmin=0)
    figure.colorbar(image, ax=panels[0], shrink=0.75, label="$p(x)$")
    panels[0].set(title="density")
    image = _show(panels[1], log_p, window, vmin=log_p.max() - DEPTH)
    figure.colorbar(image, ax=panels[1], shrink=0.75, extend="min", label="$\\log p(x)$")
    panels[1].scatter(*numbers(x[:500]).T, s=3, linewidths=0, color="tab:cyan")
    nll = -cnf().log_prob(x).mean().item()
    panels[1].set(title=f"log-density; data (dots): {nll:.3f} nats")
    return figure


def beside(log_target: Callable[[Tensor], Tensor], cnf: of.CNF, z: Tensor) -> Figure:
    """A known density, the learned one, and samples of the latter from base noise z (B, 2)."""
    window = (-5.0, 5.0)
    figure, panels = _panels(3, window)
    grid = _grid(window, FINE, z)
    for axes, log_p, title in zip(panels, (log_target, cnf().log_prob), ("target", "learned"), strict=False):
        image = _show(axes, np.exp(numbers(log_p(grid))).reshape(FINE, FINE), window, vmin=0)
        figure.colorbar(image, ax=axes, shrink=0.8, label="density")
        axes.set(title=title)
    x = numbers(cnf.from_base(z[:MOST_POINTS], with_log_det=False)[0])
    panels[2].scatter(*x.T, s=5, linewidths=0, color=PREDICTION, alpha=0.7)
    panels[2].set(title=f"{len(x)} samples")
    return figure


def evolution(cnf: of.CNF, window: tuple[float, float]) -> Figure:
    """The density at several times between base and data, above the moving samples.

    The density at a time is that of the flow truncated there.
    """
    figure = Figure(figsize=(2.1 * MOMENTS + 0.8, 4.5), layout="constrained")
    panels = figure.subplots(2, MOMENTS, sharex=True, sharey=True)
    z = cnf.base.sample(torch.Size([MOST_POINTS // 2]))
    for column, progress in enumerate(np.linspace(0, 1, MOMENTS)):
        part = cnf.leading(progress)
        p = np.exp(_on_grid(part, window, COARSE, z))
        points = part.from_base(z, with_log_det=False)[0]
        image = _show(panels[0, column], p, window, vmin=0)
        panels[0, column].set(title=f"{100 * progress:.0f} % of the way")
        panels[1, column].scatter(*numbers(points).T, s=2.5, linewidths=0, color=PREDICTION, alpha=0.7)
        panels[1, column].set(xlim=window, ylim=window, aspect="equal", xlabel="$x_1$")
        if column == MOMENTS - 1:
            bar = figure.colorbar(image, ax=panels[0].tolist(), ticks=[0, p.max()], label="density at this time")
            bar.ax.set_yticklabels(["0", "max"])
    for axes in panels[:, 0]:
        axes.set(ylabel="$x_2$")
    return figure


def flow_lines(cnf: of.CNF, window: tuple[float, float]) -> Figure:
    """The trajectories of samples from the base to the data."""
    figure, (axes,) = _panels(1, window)
    z = cnf.base.sample(torch.Size([MOST_LINES]))
    path = numbers(_path(cnf, z))
    colours = _angle_colours(path[0])
    for number, colour in enumerate(colours):
        axes.plot(*path[:, number].T, color=colour, linewidth=0.9, alpha=0.8)
    axes.scatter(
        *path[0].T, s=10, facecolors="white", edgecolors=colours, linewidths=0.8, zorder=3, label="start, in the base"
    )
    axes.scatter(*path[-1].T, s=16, color=colours, linewidths=0, zorder=3, label="end, in the data")
    axes.set(title="samples on their way, coloured by direction")
    legend_above(figure, axes)
    return figure


def base(cnf: of.CNF, x: Tensor, window: tuple[float, float]) -> Figure:
    """The data mapped to the base, in the same colours; circles contain 39, 86 and 99 % of a standard normal one."""
    figure, panels = _panels(2, window)
    z, _ = cnf.to_base(x)
    colours = _angle_colours(numbers(x))
    for axes, points, title in zip(
        panels, (x, z), ("data, coloured by direction", "the same in the base"), strict=True
    ):
        axes.scatter(*numbers(points).T, s=9, linewidths=0, color=colours)
        axes.set(title=title)
    for radius in (1, 2, 3) if cnf.given_base is None else ():
        panels[1].add_patch(Circle((0, 0), radius, fill=False, color="0.6", linewidth=0.8))
    panels[1].set(xlim=(-4, 4), ylim=(-4, 4), xlabel="$z_1$", ylabel="$z_2$")
    return figure


def marginals(drawn: Tensor, x: Tensor, names: Sequence[str]) -> Figure:
    """Histograms and pair plots of the first features of samples and data, (B, d) each, with the features' names."""
    data, sampled, count = numbers(x), numbers(drawn), min(x.shape[1], MOST_PAIRS)
    figure = Figure(figsize=(1.5 + 2 * count, 1 + 2 * count), layout="constrained")
    panels = figure.subplots(count, count, squeeze=False)
    size = min(8.0, max(1.5, 900 / len(x)))  # points²
    spans = [limits(np.quantile(values, (0.005, 0.995))) for values in data.T[:count]]
    for row in range(count):
        for column in range(count):
            axes = panels[row, column]
            for values, colour, label in ((data, TRUTH, "data"), (sampled, PREDICTION, "samples")):
                if row == column:
                    bins = np.linspace(*spans[column], min(40, 5 + len(x) // 8))
                    shares = np.full(len(values), 1 / (len(values) * (bins[1] - bins[0])))  # also of those outside
                    axes.hist(values[:, row], bins, weights=shares, histtype="step", color=colour, label=label)
                else:
                    axes.scatter(values[:, column], values[:, row], s=size, linewidths=0, color=colour, alpha=0.6)
            axes.set(xlim=spans[column])
            if row != column:
                axes.set(ylim=spans[row])
            if row == count - 1:
                axes.set(xlabel=names[column])
            if column == 0:
                axes.set(ylabel="density" if count == 1 else names[row])
    legend_above(figure, panels[0, 0])
    return figure


# Density and evolution


def _path(cnf: of.CNF, z: Tensor) -> Tensor:
    """(T, B, d), the states between base and data."""
    path = [z[None]]
    for transform in cnf.transforms:
        if isinstance(transform, of.Flow):
            t = torch.linspace(transform.options.t0, transform.options.t1, 61, dtype=torch.float64)
            states = transform.trajectory(path[-1][-1], t).y
            path.append(states)
        else:
            path.append(transform(path[-1][-1])[0][None])
    return torch.cat(path)


def _grid(window: tuple[float, float], size: int, like: Tensor) -> Tensor:
    """(size², 2), grid points in rows from bottom to top."""
    at = torch.linspace(*window, size, dtype=like.dtype, device=like.device)
    return torch.cartesian_prod(at, at).flip(1)


def _on_grid(cnf: of.CNF, window: tuple[float, float], size: int, like: Tensor) -> np.ndarray:
    """(size, size), log p."""
    return numbers(cnf().log_prob(_grid(window, size, like))).reshape(size, size)


# Drawing


def _window(x: Tensor) -> tuple[float, float]:
    """The limits of both axes, which include data and base."""
    reach = 1.15 * max(x.abs().max().item(), 2.6)
    return -reach, reach


def _panels(count: int, window: tuple[float, float]) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(0.6 + 4.6 * count, 4.6), layout="constrained")
    panels: list[Any] = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in panels:
        axes.set(xlim=window, ylim=window, aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
    return figure, panels


def _show(axes: Any, values: np.ndarray, window: tuple[float, float], vmin: float) -> Any:
    return axes.imshow(values, origin="lower", extent=(*window, *window), vmin=vmin, cmap="magma", aspect="equal")


def _angle_colours(points: np.ndarray) -> np.ndarray:
    """The colours of points by their direction from the centre."""
    centred = points - points.mean(0)
    return colormaps["hsv"](np.arctan2(centred[:, 1], centred[:, 0]) / (2 * math.pi) + 0.5)
