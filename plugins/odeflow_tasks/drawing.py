"""Arrays and axis limits for figures."""

import numpy as np
import torch
from torch import Tensor


def numbers(values: Tensor) -> np.ndarray:
    """A tensor of any dtype and device as a NumPy array, of single precision at least."""
    values = values.detach().cpu()
    return (values if values.dtype == torch.float64 else values.float()).numpy()


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
