"""Agreement: predicted numbers of a test beside the true ones, and their figure."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from odeflow_tasks.drawing import BASELINE, PREDICTION, limits, numbers
from odeflow_tasks.file_units import FileUnits

MOST_TARGETS, MOST_POINTS = 4, 2000
"""Maximum numbers of panels and of points in each."""


class Agreement(Metric):
    """Collects the predictions and targets of a test, in all processes.

    Args:
        count: Number k of targets.
        what: What has them, in the plural.
    """

    pairs: list[Tensor]

    def __init__(self, count: int, what: str) -> None:
        super().__init__()
        self.count, self.what = count, what
        self.add_state("pairs", [], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, targets: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Adds predictions and targets, (B, k) each, in the units of batches."""
        self.pairs.append(torch.stack((prediction, targets), 1).flatten())  # a process without any has shape (0,)

    def compute(self) -> Tensor:
        """(N, 2, k), all predictions and targets."""
        whole = dim_zero_cat(self.pairs) if len(self.pairs) else torch.empty(0)
        return whole.view(-1, 2, self.count)

    def figure(self, file: FileUnits) -> Figure:
        """Predictions over targets in the file's units, with the coefficient of determination R² of all."""
        pairs = self.compute()
        pairs = pairs[pairs.isfinite().all(-1).all(-1)]
        predicted, true = (numbers(file.targets(pairs[:, number])) for number in range(2))
        shown = min(self.count, MOST_TARGETS)
        figure = Figure(figsize=(4.4 * shown, 4.7), layout="constrained")
        for number, axes in enumerate(figure.subplots(1, shown, squeeze=False)[0]):
            x, y = true[:, number], predicted[:, number]
            ends = np.stack(limits(np.concatenate([x, y]), 0.05))
            axes.plot(ends, ends, color=BASELINE, linewidth=1, zorder=1)
            axes.plot(x[:MOST_POINTS], y[:MOST_POINTS], "o", color=PREDICTION, markersize=4, alpha=0.5, mew=0)
            name = file.target(number)
            axes.set(xlim=ends, ylim=ends, xlabel=f"{name}, true", ylabel=f"{name}, predicted", aspect="equal")
            axes.set_title(f"{len(x):,} {self.what}{_explained(x, y)}", fontsize="medium")
        return figure


def _explained(true: np.ndarray, predicted: np.ndarray) -> str:
    """R² = 1 − Σ (y − ŷ)² / Σ (y − ȳ)² as text; empty where it is not defined."""
    if len(true) < 2 or np.ptp(true) == 0:
        return ""
    return f", $R^2$ = {1 - np.square(true - predicted).mean() / np.square(true - true.mean()).mean():.3f}"
