"""Constant: a path that does not depend on time."""

import torch
from torch import Tensor

from odeflow.paths.path import Path


class Constant(Path):
    """u(t) = value.

    Args:
        value: (B, c, …); B = 1 for a value common to all samples.

    Example:
        >>> import torch
        >>> Constant(torch.ones(4, 1)).derivative(torch.tensor(0.5)).sum()
        tensor(0.)
    """

    def __init__(self, value: Tensor) -> None:
        self.value, self.tensors = value, (value,)

    def __call__(self, t: Tensor) -> Tensor:
        return self.value

    def derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(self.value)
