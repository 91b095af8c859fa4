"""Step size control: proposes and accepts steps."""

from abc import ABC, abstractmethod

from torch import Tensor

from odeflow.engine.step.stages import Stages

SMALLEST_STEP = 8  # in spacings of floating-point numbers at the current time


class StepControl(ABC):
    """Proposes the end of the next step, and accepts or rejects the step once it is taken.

    Attributes:
        next_size: Size of the next step, if it is controlled by the error.
        stiffness: The mean of h|λ|, if the control estimates it.
    """

    next_size: float | None = None
    stiffness: float | None = None

    @abstractmethod
    def start(self, stages: Stages, t: float, y: Tensor, end: float) -> None:
        """Prepares a solve from (t, y) to `end`."""

    @abstractmethod
    def propose(self, t: float, stop: float) -> float:
        """The end of the step from t, not beyond `stop`."""

    @abstractmethod
    def accepts(self, stages: Stages, y: Tensor, h: float, y1: Tensor) -> bool:
        """Whether the step of size h from y to y1 is accepted."""

    @abstractmethod
    def forget_state(self) -> None:
        """Discards everything stored about the state, which was replaced."""
