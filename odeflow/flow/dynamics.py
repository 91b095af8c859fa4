"""Dynamics: the right-hand side of the differential equation."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from odeflow.engine.equation.equation import StochasticField
from odeflow.errors import SettingError
from odeflow.plugin.plugin import Plugin


class Dynamics(Plugin, nn.Module, ABC):
    """The vector field f of dy/dt = f(t, y), as a module. Subclasses call `super().__init__()` first.

    Attributes:
        width: Size of the state along its features or channels; tasks size the layers before and after accordingly.
        states: The names of the features of the state, in order; empty where they have none.
        inputs: The names of external inputs that the field takes behind the state. `width` does not count them. Other
            fields take inputs, too, if their width counts them.
        driven: Whether an external input X enters by its derivative: the field takes [y, dX/dt].
    """

    kind = "dynamics"
    width: int
    states: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    driven: bool = False

    @abstractmethod
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The vector field at (t, y).

        Args:
            t: (), the time, or (B,), per-sample times.
            y: (B, *state).

        Returns:
            dy/dt, of the shape of y.
        """

    def divergence(self, t: Tensor, y: Tensor) -> Tensor | None:
        """(B,), tr ∂f/∂y for each sample in closed form; None if there is none (the default)."""
        return None

    def enter(self, y0: Tensor) -> Tensor:
        """The initial state of the solve from the flow's input, called once before each solve. By default the identity.

        Args:
            y0: (B, width, …).

        Returns:
            (B, *state).
        """
        return y0

    def leave(self, y: Tensor) -> Tensor:
        """The flow's output from a state of the solve. By default the identity.

        Args:
            y: (B, *state).

        Returns:
            (B, width, …).
        """
        return y


class Modifier(Dynamics):
    """A vector field built on another one. Subclasses implement `forward` by calling `self.dynamics`.

    Args:
        dynamics: The field to modify.

    Raises:
        SettingError: The field is stochastic.
    """

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__()
        if isinstance(dynamics, StochasticField):
            name = type(self).__name__
            raise SettingError(
                f"{name} modifies a drift, and would lose the diffusion of {type(dynamics).__name__}: modify the drift "
                f"alone, as NeuralSDE(drift={name}(…), diffusion=…)"
            )
        self.dynamics, self.width = dynamics, dynamics.width
        self.states, self.inputs, self.driven = dynamics.states, dynamics.inputs, dynamics.driven

    def enter(self, y0: Tensor) -> Tensor:
        """As of the modified field."""
        return self.dynamics.enter(y0)

    def leave(self, y: Tensor) -> Tensor:
        """As of the modified field."""
        return self.dynamics.leave(y)
