"""Dynamics: the right-hand side of the equation, a neural network of time and state."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from odeflow.plugin import Plugin


class Dynamics(Plugin, nn.Module, ABC):
    """dy/dt = f(t, y), as a module. Subclasses call `super().__init__()` first, as of every module.

    Attributes:
        width: Size of the state along its features or channels; tasks fit the layers before and after to it.
    """

    kind = "dynamics"
    width: int

    @abstractmethod
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The slope at (t, y).

        Args:
            t: (), the time.
            y: (B, *state).

        Returns:
            dy/dt, of the shape of y.
        """
