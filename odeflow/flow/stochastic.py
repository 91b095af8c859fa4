"""Stochastic: the right-hand side of a stochastic differential equation."""

from abc import abstractmethod

from torch import Tensor

from odeflow.engine.equation.equation import StochasticField
from odeflow.flow.dynamics import Dynamics


class Stochastic(Dynamics, StochasticField):
    """The field of dy = f(t, y) dt + g(t, y) dW: `forward` is the drift f, `diffusion` is g.

    Everything that looks at a vector field, such as figures and penalties, sees the drift. Subclasses set `noise` and
    `calculus` where they differ from diagonal noise in the sense of Itô.

    Example:
        >>> class Growth(of.Stochastic):
        ...     width = 1
        ...
        ...     def forward(self, t, y):
        ...         return 0.05 * y
        ...
        ...     def diffusion(self, t, y):
        ...         return 0.2 * y
    """

    @abstractmethod
    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """The diffusion g(t, y).

        Args:
            t: (), the time.
            y: (B, *state).

        Returns:
            (B, *state), or (B, *state, m) for m Brownian motions: see `StochasticField`.
        """
