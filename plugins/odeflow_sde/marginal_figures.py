"""Figures of marginals: quantiles of data and of samples of the prior over time."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow_tasks.drawing import PREDICTION, TRUTH, legend_above, numbers
from odeflow_tasks.file_units import FileUnits
from odeflow_tasks.series_figures import liveliest

SAMPLES = 200
"""Number of samples of the prior."""
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def draw(batch: of.Series, t: Tensor, drawn: Tensor, file: FileUnits) -> Figure:
    """A panel for each of the liveliest features: quantiles of the samples as bands, those of the data as lines.

    Data at times of each series' own are points.

    Args:
        batch: The data.
        t: (G,), the times of the samples.
        drawn: (S, G, d), samples of the prior.
        file: The names and units of the figure.
    """
    times, where = batch.t.unique(return_inverse=True)
    features = liveliest(batch)
    batch, drawn = file.series(batch), file.values(drawn)
    figure = Figure(figsize=(1 + 4 * len(features), 3.6), layout="constrained")
    panels = figure.subplots(1, len(features), squeeze=False)[0]
    moments = file.times(t)
    for feature, axes in zip(features, panels, strict=True):
        low, lower, middle, upper, high = np.quantile(numbers(drawn[..., feature]), LEVELS, axis=0)
        for edges, alpha, label in ((low, high), 0.15, "90 %"), ((lower, upper), 0.3, "50 %"):
            axes.fill_between(
                moments, *edges, color=PREDICTION, alpha=alpha, linewidth=0, label=f"{label} of the prior"
            )
        axes.plot(moments, middle, color=PREDICTION, linewidth=1.3, label="median of the prior")
        known, values = (batch.seen | batch.target)[..., feature], batch.y[..., feature]
        if bool(torch.equal(where, where[:1].expand_as(where))):  # common times
            found = torch.stack(
                [
                    torch.quantile(values[known[:, row], row], torch.tensor(LEVELS).to(values))
                    if bool(known[:, row].any())
                    else values.new_full((len(LEVELS),), torch.nan)
                    for row in range(values.shape[1])
                ]
            )
            for number, line in enumerate(numbers(found).T):
                label = "5, 25, 50, 75, 95 % of the data" if number == 0 else None
                axes.plot(file.times(times), line, "--", color=TRUTH, linewidth=0.9, label=label)
        else:
            style = {"color": TRUTH, "markersize": 1.5, "alpha": 0.5, "linestyle": "none"}
            axes.plot(file.times(times[where[known]]), numbers(values[known]), ".", label="data", **style)
        axes.set(title=file.name(feature))
        file.label_times(axes)
    legend_above(figure, panels[0])
    return figure
