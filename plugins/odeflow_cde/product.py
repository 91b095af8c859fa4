"""Product: fields of controlled equations that multiply by dX without their matrix."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

import odeflow as of


class Product(of.Dynamics, ABC):
    """The matrix f(t, z) of a controlled equation dz = f(z) dX, by its product with a vector. Subclass it for `Driven`.

    As an ordinary field it is the first column of the matrix, the motion along the first channel of X alone.

    Attributes:
        channels: Number c of the channels of X.
    """

    channels: int

    @abstractmethod
    def product(self, t: Tensor, z: Tensor, dx: Tensor) -> Tensor:
        """f(t, z) dx.

        Args:
            t: (), the time, or (B,).
            z: (B, w), the state.
            dx: (B, c), the vector.

        Returns:
            (B, w).
        """

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, w) ↦ (B, w), the first column of the matrix."""
        first = torch.zeros_like(y[:, :1]).expand(-1, self.channels).clone()
        first[:, 0] = 1.0
        return self.product(t, y, first)
