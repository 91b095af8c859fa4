"""Dynamics: the right-hand side of the equation, a neural network of time and state."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from odeflow.plugin.plugin import Plugin


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
            t: (), the time, or (B,) where each sample has its own.
            y: (B, *state).

        Returns:
            dy/dt, of the shape of y.
        """

    def divergence(self, t: Tensor, y: Tensor) -> Tensor | None:
        """(B,), tr ∂f/∂y for each sample in closed form; None, as by default, where there is none."""
        return None

    def enter(self, y0: Tensor) -> Tensor:
        """What a flow solves for, from its input; called once a solve, before it. By default the input itself.

        Args:
            y0: (B, width, …).

        Returns:
            (B, *state).
        """
        return y0

    def leave(self, y: Tensor) -> Tensor:
        """What a flow returns, from what it solved for. By default that itself.

        Args:
            y: (B, *state).

        Returns:
            (B, width, …).
        """
        return y


class Modifier(Dynamics):
    """A vector field made from another one. Subclasses implement `forward`, by calling `self.dynamics`.

    Args:
        dynamics: The field that is modified.
    """

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__()
        self.dynamics, self.width = dynamics, dynamics.width

    def enter(self, y0: Tensor) -> Tensor:
        """As of the field that is modified."""
        return self.dynamics.enter(y0)

    def leave(self, y: Tensor) -> Tensor:
        """As of the field that is modified."""
        return self.dynamics.leave(y)
