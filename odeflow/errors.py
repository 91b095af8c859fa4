"""Every error that odeflow raises on purpose. Messages say what was wanted, what came, and what to do."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from odeflow.solver import Solution


class OdeflowError(Exception):
    """Root of odeflow's errors: catch it to catch them all."""


class PluginError(OdeflowError, LookupError):
    """A plugin is unknown, ambiguous, badly specified, or could not be imported."""


class RecipeError(OdeflowError, LookupError):
    """A recipe is unknown or cannot be read."""


class CheckpointError(OdeflowError, ValueError):
    """A checkpoint lacks what is needed to rebuild its model."""


class DataError(OdeflowError, ValueError):
    """Data are missing, damaged or of the wrong form."""


class TableauError(OdeflowError, ValueError):
    """The coefficients of a Runge–Kutta method contradict themselves or the order they claim."""


class StateError(OdeflowError, ValueError):
    """A state, or what a field made of it, has the wrong shape, dtype or structure."""


class SettingError(OdeflowError, ValueError):
    """An option has a value that makes no sense."""


class GradientError(OdeflowError, RuntimeError):
    """A gradient was asked for that the chosen method cannot give."""


class ConformanceError(OdeflowError, AssertionError):
    """A plugin breaks a law that all plugins of its kind keep."""


class SolveError(OdeflowError, RuntimeError):
    """The integration could not go on: the step size vanished, the state blew up, or the step budget ran out.

    Args:
        message: What happened, and what to do.
        broken: Where a state or slope has entries that are not finite, that state or slope.

    Attributes:
        partial: The solution until there, at those of the times asked for that were reached, and at the last time
            reached; None if nothing was. With steps per sample t is (B, T), and rows that a sample did not reach repeat
            its last time and state. It carries a gradient by `Backprop` alone.
    """

    def __init__(self, message: str, broken: "Tensor | None" = None) -> None:
        super().__init__(message)
        self.broken = broken
        self.partial: Solution | None = None
