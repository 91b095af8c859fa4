"""Figures of a classification."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """The confusion matrix, in which mistakes are red.

    Args:
        counts: (K, K), the numbers of samples by true and predicted class.
        names: The names of the classes; unless there are K, they are numbers.
    """
    classes = range(len(counts))
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axes = figure.subplots()
    mistakes = counts - np.diag(np.diag(counts))
    figure.colorbar(axes.imshow(mistakes, cmap="Reds", vmin=0), label="mistakes", ticks=MaxNLocator(integer=True))
    for (true, predicted), count in np.ndenumerate(counts):
        if count:
            dark = true != predicted and mistakes[true, predicted] > 0.6 * mistakes.max()
            axes.text(predicted, true, str(count), ha="center", va="center", fontsize=8, color="w" if dark else "k")
    wrong = 100 * mistakes.sum() / max(counts.sum(), 1)
    axes.set(xlabel="predicted class", ylabel="true class", title=f"{wrong:.2f} % wrong")
    names = names if len(names) == len(counts) else [str(number) for number in classes]
    axes.set_xticks(classes, names, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(classes, names)
    return figure
