"""Step size control: proposes and accepts steps."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from odeflow.engine.equation.clock import Number, Truth
from odeflow.engine.output.solution import SolveError
from odeflow.engine.step.stages import Stages

SMALLEST_STEP = 8  # in spacings of floating-point numbers at the current time


@dataclass(frozen=True)
class Place:
    """Where a solve failed.

    Attributes:
        t: The time.
        rejected: Number of rejected steps.
        stiffness: The mean of h|λ|, if known.
        sample: The sample, if each has its own steps.
        index: Its index among those that are still integrated.
    """

    t: float
    rejected: int
    stiffness: float | None
    sample: int | None = None
    index: int = 0

    def of(self, number: Number) -> float:
        """The number of this sample."""
        return float(number[self.index]) if isinstance(number, Tensor) else number


class StepControl(ABC):
    """Proposes the end of the next step, and accepts or rejects the step once it is taken.

    Times and step sizes are floats, and decisions bools, if all samples share them; otherwise tensors (b,).

    Attributes:
        next_size: Size of the next step, if it is controlled by the error.
        curious: Whether to estimate h|λ| for the last step.
        exhausted: Whether there were too many attempts.
    """

    next_size: Any = None
    curious: bool = False
    exhausted: bool = False

    def start(self, stages: Stages, t: Any, y: Tensor, end: Any) -> None:
        """Prepares a solve from (t, y) to `end`."""
        return

    @abstractmethod
    def propose(self, t: Any, stop: Any) -> Any:
        """The end of the step from t, not beyond `stop`."""

    @abstractmethod
    def accepts(self, stages: Stages, y: Tensor, h: Any, y1: Tensor) -> Truth:
        """Whether the step of size h from y to y1 is accepted."""

    def underflows(self, t: Any) -> Truth:
        """Whether the size of the next step, from t, is too small."""
        return False

    def failure(self, place: Place) -> SolveError:
        """The error of a solve that is exhausted or underflows."""
        return SolveError(f"no further step is possible at t = {place.t:g}")

    def forget_state(self) -> None:
        """Discards everything stored about the state, which was replaced."""
        return

    def narrow(self, keep: Tensor) -> None:
        """Goes on with a subset of the samples, if anything here belongs to single ones."""
        return
