"""What figures have in common: colours, legends, arrays and axis limits."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

TRUTH, PREDICTION, BASELINE, SECOND = "black", "#0072b2", "0.55", "#d55e00"
"""The colours of data, of the model, of a simple model, and of a second curve of the model, in every figure."""


def numbers(values: Tensor) -> np.ndarray:
    """A tensor of any dtype and device as a NumPy array, of single precision at least."""
    values = values.detach().cpu()
    return (values if values.dtype == torch.float64 else values.float()).numpy()


def legend_above(figure: Figure, *panels: Any) -> None:
    """Draws one legend for several panels above them, in as many columns as fit.

    Args:
        figure: The figure.
        *panels: The axes; a label that several have stands once.
    """
    named: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    if not named:
        return
    column = 0.6 + 0.075 * max(map(len, named))  # inches: handle and gap, and a small letter
    columns = max(1, min(len(named), int(figure.get_figwidth() / column)))
    handles, labels = list(named.values()), list(named)
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize="small", frameon=False)


def limits(values: np.ndarray, margin: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """Axis limits that include all values.

    Args:
        values: (N,) or (N, d).
        margin: Margin on each side as a fraction of the range.

    Returns:
        The lower and upper limits, each () or (d,); 0 and 1 if there are no values.
    """
    if not len(values):
        return np.zeros(values.shape[1:]), np.ones(values.shape[1:])
    low, high = np.asarray([values.min(0), values.max(0)], dtype=np.float64)
    room = margin * (high - low) + 1e-3
    return low - room, high + room
