"""Clocks: per-sample times and step sizes."""

import torch
from torch import Tensor

DTYPE = torch.float64  # of times and step sizes


def column(values: Tensor, y: Tensor) -> Tensor:
    """(b,) ↦ (b, 1, …), broadcastable with states like y."""
    return values.to(y).view(-1, *(1,) * (y.dim() - 1))
