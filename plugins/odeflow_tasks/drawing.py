"""From tensors to paper: the arrays and the limits that all pictures draw."""

import numpy as np
from torch import Tensor


def numbers(values: Tensor) -> np.ndarray:
    """A tensor as an array, whatever its dtype and device."""
    return values.detach().float().cpu().numpy()


def limits(values: np.ndarray, margin: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """From where to where axes go that show all values.

    Args:
        values: (N,) or (N, d).
        margin: What is added on each side, as a part of the range.

    Returns:
        The lower and the upper ends, each () or (d,); 0 and 1 where there are no values.
    """
    if not len(values):
        return np.zeros(values.shape[1:]), np.ones(values.shape[1:])
    low, high = np.asarray([values.min(0), values.max(0)], dtype=np.float64)
    room = margin * (high - low) + 1e-3
    return low - room, high + room
