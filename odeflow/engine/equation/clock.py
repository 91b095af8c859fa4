"""Clocks: times and step sizes, their rounding, and those per sample."""

import math

import torch
from torch import Tensor

DTYPE = torch.float64  # of times and step sizes
SAME_STEP = 1e-6  # a step whose end is within this fraction of its size from a time ends there


def same_step(h: float, t: float) -> float:
    """The largest difference of steps of size h near t that is due to rounding."""
    return max(SAME_STEP * abs(h), 4 * math.ulp(t))


def column(values: Tensor, y: Tensor) -> Tensor:
    """(b,) ↦ (b, 1, …), broadcastable with states like y."""
    return values.to(y).view(-1, *(1,) * (y.dim() - 1))
