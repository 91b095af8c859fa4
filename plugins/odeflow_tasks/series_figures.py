"""Figures of time series: seen values, targets, predictions and latent paths."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow.analysis.measure import components
from odeflow_tasks import series_baselines
from odeflow_tasks.drawing import BASELINE, PREDICTION, SECOND, TRUTH, legend_above, limits, numbers
from odeflow_tasks.file_units import FileUnits

MOST_SERIES, MOST_FEATURES, MOST_PATHS = 3, 3, 24
"""Maximum numbers of series, of features, and of latent paths in a figure."""
SAMPLES, LINES, MOMENTS = 60, 8, 301
"""Numbers of posterior samples in a band, of samples drawn as lines, and of times along a curve."""
BEYOND = 0.5
"""Length of the extrapolation on each side, as a fraction of the time span of the data."""


@dataclass(frozen=True)
class Curve:
    """A prediction of each series.

    Attributes:
        label: The label.
        t: (B, G), the times.
        y: (B, G, d), the values.
        samples: (S, B, G, d), posterior samples, drawn as a band.
    """

    label: str
    t: Tensor
    y: Tensor
    samples: Tensor | None = None


def few(batch: of.Series, count: int = MOST_PATHS) -> of.Series:
    """The first series of a batch."""
    return batch.take(slice(count))


def draw(batch: of.Series, curves: Sequence[Curve], file: FileUnits, period: float | None = None) -> dict[str, Figure]:
    """Figures by name: "series", over time; in two dimensions also "plane".

    Args:
        batch: The seen values and the targets.
        curves: The predictions.
        file: The names and units of the figures.
        period: The period of the seasonal baseline, in the batch's time.
    """
    batch = few(batch, MOST_SERIES)
    features, lines = liveliest(batch), [_restored(curve, file) for curve in _baselines(batch, period)]
    batch, curves = file.series(batch), [_restored(curve, file) for curve in curves]
    figures = {"series": _over_time(batch, features, curves, lines, file)}
    if batch.y.shape[2] == 2:
        figures["plane"] = _in_plane(batch, curves, file)
    return figures


def _restored(curve: Curve, file: FileUnits) -> Curve:
    """The curve with values in the file's units."""
    samples = None if curve.samples is None else file.values(curve.samples)
    return replace(curve, y=file.values(curve.y), samples=samples)


def times(batch: of.Series, t0: float) -> tuple[Tensor, Tensor]:
    """Times along a curve with a margin for extrapolation around the data and t₀, and those without the margin."""
    low, high = _time_span(batch, t0)
    margin = BEYOND * (high - low)
    t = torch.linspace(low - margin, high + margin, MOMENTS, dtype=batch.t.dtype, device=batch.t.device)
    return t, t[(t >= low) & (t <= high)]


def liveliest(batch: of.Series, count: int = MOST_FEATURES) -> list[int]:
    """The features whose targets deviate most from their mean, in sum of squares and the batch's units, ascending."""
    known = batch.target.sum((0, 1)).clamp(min=1)
    mean = batch.y.where(batch.target, 0.0).sum((0, 1)) / known
    deviation = (batch.y - mean).where(batch.target, 0.0).square().sum((0, 1))
    return sorted(deviation.argsort(descending=True, stable=True)[:count].tolist())


# Over time


def _baselines(batch: of.Series, period: float | None) -> list[Curve]:
    """The seen values joined by linear interpolation, held outside, and with a period by the seasonal baseline."""
    found = series_baselines.predictions(batch, period)
    drawn = {"linear": "linear interpolation, held outside", "seasonal": "a period before"}
    return [
        Curve(label, batch.t, batch.y.where(batch.seen, found[name])) for name, label in drawn.items() if name in found
    ]


def _over_time(
    batch: of.Series, features: Sequence[int], curves: Sequence[Curve], baselines: Sequence[Curve], file: FileUnits
) -> Figure:
    """A row for each series, a column for each of these features."""
    rows, columns = len(batch.t), len(features)
    figure = Figure(figsize=(2.5 + 4 * columns, 0.8 + 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
    edges = file.times(batch.t.new_tensor(_time_span(batch)))
    for row in range(rows):
        for column, feature in enumerate(features):
            axes = panels[row, column]
            for curve, colour in zip(curves, (PREDICTION, SECOND), strict=False):
                _draw_curve(axes, curve, row, feature, colour, file)
            for curve, style in zip(baselines, ("--", ":"), strict=False):
                y = numbers(curve.y[row, :, feature])
                axes.plot(
                    file.times(curve.t[row]), y, style, color=BASELINE, linewidth=0.8, label=curve.label, zorder=1
                )
            _draw_values(axes, batch, row, feature, file)
            for edge in edges:
                axes.axvline(edge, color="0.8", linewidth=0.8, zorder=0)
            known = (batch.target | batch.seen)[row, :, feature]
            values = numbers(batch.y[row, :, feature][known])
            axes.set(ylim=limits(_with_curves(values, [numbers(each.y[row, :, feature]) for each in curves]), 0.2))
            if row == 0:
                axes.set(title=file.name(feature))
            if row == rows - 1:
                file.label_times(axes)
    legend_above(figure, panels[0, 0])
    return figure


def _with_curves(values: np.ndarray, curves: Sequence[np.ndarray]) -> np.ndarray:
    """The values and those of curves, these up to the range of the former beyond them."""
    if not len(values):
        return values
    reach = np.ptp(values) + 1e-12
    low, high = values.min() - reach, values.max() + reach
    return np.concatenate([values, *(np.clip(curve[np.isfinite(curve)], low, high) for curve in curves)])


def _draw_curve(axes: Any, curve: Curve, row: int, feature: int, colour: str, file: FileUnits) -> None:
    t = file.times(curve.t[row])
    if curve.samples is not None:
        values = numbers(curve.samples[:, row, :, feature])
        for part, alpha in ((0.05, 0.15), (0.25, 0.25)):
            edges = np.quantile(values, (part, 1 - part), axis=0)
            label = f"{100 - 200 * part:.0f} % of the posterior"
            axes.fill_between(t, *edges, color=colour, alpha=alpha, linewidth=0, label=label)
    axes.plot(t, numbers(curve.y[row, :, feature]), color=colour, linewidth=1.3, label=curve.label)


def _draw_values(axes: Any, batch: of.Series, row: int, feature: int, file: FileUnits) -> None:
    t, y = file.times(batch.t[row]), numbers(batch.y[row, :, feature])
    seen = batch.seen[row, :, feature].cpu().numpy()
    target = batch.target[row, :, feature].cpu().numpy() & ~seen
    axes.plot(t[target], y[target], "o", color=TRUTH, markersize=3, fillstyle="none", label="truth, not seen")
    axes.plot(t[seen], y[seen], "o", color=TRUTH, markersize=2.5, label="seen")


# In the plane


def _in_plane(batch: of.Series, curves: Sequence[Curve], file: FileUnits) -> Figure:
    """A panel for each series: the curve within the time span of the data, and beyond it on both sides."""
    count = len(batch.t)
    figure = Figure(figsize=(0.6 + 3.6 * count, 4.8), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    low, high = _time_span(batch)
    for row, axes in enumerate(panels):
        for curve in curves:
            _draw_stretches(axes, curve, row, low, high)
        seen, unseen = (mask[row].all(-1) for mask in (batch.seen, batch.target & ~batch.seen))
        truth = {"fillstyle": "none", "color": TRUTH, "markersize": 3, "label": "truth, not seen"}
        axes.plot(*numbers(batch.y[row][unseen]).T, "o", **truth)
        axes.plot(*numbers(batch.y[row][seen]).T, "o", color=TRUTH, markersize=2.5, label="seen")
        low_y, high_y = limits(numbers(batch.y[row][(batch.target | batch.seen)[row].all(-1)]), 0.35)
        middle, reach = (low_y + high_y) / 2, (high_y - low_y) / 2
        reach = np.full(2, reach.max()) if file.comparable else reach
        xlim, ylim = zip(middle - reach, middle + reach, strict=True)
        aspect = "equal" if file.comparable else "auto"
        axes.set(xlim=xlim, ylim=ylim, aspect=aspect, xlabel=file.name(0), ylabel=file.name(1))
    legend_above(figure, panels[0])
    return figure


def _draw_stretches(axes: Any, curve: Curve, row: int, low: float, high: float) -> None:
    """The curve before, within and after the time span of the data, above some of its samples."""
    t, y = curve.t[row], curve.y[row]
    stretches = ((t <= low, ":", "before"), (t >= high, "--", "after"), ((t >= low) & (t <= high), "-", ""))
    for part, look, where in stretches:
        if curve.samples is not None:
            for line in curve.samples[:LINES, row]:
                axes.plot(*numbers(line[part]).T, look, color=PREDICTION, linewidth=0.5, alpha=0.35)
        label = f"extrapolated {where} the data" if where else curve.label
        if bool(part.sum() > 1):
            axes.plot(*numbers(y[part]).T, look, color=PREDICTION, linewidth=1.4, label=label)


# Latent paths and samples


def draw_paths(t: Tensor, z: Tensor, file: FileUnits) -> Figure:
    """Latent paths (B, G, latent) at times (G,): the component that varies most over time, and two principal ones."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    over_time, plane = figure.subplots(1, 2)
    times, size = file.times(t), z.shape[-1]
    chosen = int(z.flatten(0, 1).var(0).argmax())
    found = components(z)
    colours = [f"C{number % 10}" for number in range(len(z))]
    for path, point, colour in zip(numbers(z[..., chosen]), numbers(found.scores), colours, strict=True):
        over_time.plot(times, path, color=colour, linewidth=1)
        plane.plot(*point.T, color=colour, linewidth=1)
        plane.plot(*point[0], "o", color=colour, markersize=3)
    file.label_times(over_time)
    over_time.set(ylabel=f"$z_{{{chosen + 1}}}$", title=f"the liveliest of {size} latent components")
    plane.set(xlabel=found.names[0], ylabel=found.names[1], title="latent paths; a dot at the first time")
    return figure


def draw_prior(batch: of.Series, t: Tensor, drawn: Tensor, file: FileUnits) -> Figure:
    """Samples (S, G, d) of the prior at times (G,) beside data: in the plane if d = 2, else a feature over time."""
    flat, feature = drawn.shape[2] == 2, liveliest(batch, 1)[0]
    batch, drawn = file.series(batch), file.values(drawn)
    figure = Figure(figsize=(9.4, 4.6 if flat else 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for row in range(len(batch.t)):
        known = batch.target[row].all(-1) if flat else batch.target[row, :, feature]
        y = numbers(batch.y[row][known] if flat else batch.y[row][known, feature])
        x = y.T if flat else (file.times(batch.t[row][known]), y)
        panels[0].plot(*x, ".-", markersize=2, linewidth=0.5, alpha=0.7)
    for line in numbers(drawn):
        panels[1].plot(*(line.T if flat else (file.times(t), line[:, feature])), linewidth=0.9)
    for axes, title in zip(panels, ("data", "samples of the prior"), strict=True):
        if flat:
            axes.set(xlabel=file.name(0), ylabel=file.name(1), title=title)
        else:
            file.label_times(axes)
            axes.set(ylabel=file.name(feature), title=title)
    return figure


# Drawing


def _time_span(batch: of.Series, *also: float) -> tuple[float, float]:
    """The first and last time of the data and of `also`."""
    times = batch.t[batch.target.any(-1) | batch.seen.any(-1)]
    times = times if len(times) else batch.t.reshape(-1)
    return min([float(times.min()), *also]), max([float(times.max()), *also])
