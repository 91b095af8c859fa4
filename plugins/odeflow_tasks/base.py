"""Base: the distribution from which the flows of a density start."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import odeflow as of


class Base(of.Plugin, nn.Module, ABC):
    """p(z), fitted to data once, before training. The task knows the size and calls `build` once, before use.

    Attributes:
        fitted: (), bool: whether it has been.
        known: Whether its density is known; it can be drawn from in any case. Only `Matching` supports one that is not.
    """

    kind = "base"
    known: bool = True
    fitted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @abstractmethod
    def build(self, dim: int) -> None:
        """Builds the buffers or parameters for vectors of length `dim`."""

    @abstractmethod
    def fit(self, z: Tensor) -> None:
        """Fits the distribution to data (N, dim), mapped to where the flows end."""

    @abstractmethod
    def forward(self) -> Distribution:
        """The distribution, with events of shape (dim,)."""
