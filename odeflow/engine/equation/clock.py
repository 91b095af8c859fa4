"""Clocks: times and step sizes of samples, beside their states."""

import torch
from torch import Tensor

DTYPE = torch.float64  # of clocks and step sizes


def column(values: Tensor, y: Tensor) -> Tensor:
    """(b,) ↦ (b, 1, …), to be multiplied with states like y."""
    return values.to(y).view(-1, *(1,) * (y.dim() - 1))
