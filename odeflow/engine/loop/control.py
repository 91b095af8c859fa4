"""Step control: where a step ends, and whether it was good enough."""

import math
from abc import ABC, abstractmethod

from torch import Tensor

from odeflow.engine.step.stages import Stages

SMALLEST_STEP = 8  # in spacings of floating-point numbers at the present time
SAME_STEP = 1e-6  # a step whose end is this part of itself from a time ends there


class StepControl(ABC):
    """Proposes the end of the next step, and judges the step once it was taken.

    Attributes:
        next_size: Size of the next step, where the control chooses it by the error of the last.
        stiffness: The mean of h|λ|, where the control looks at it.
    """

    next_size: float | None = None
    stiffness: float | None = None

    @abstractmethod
    def start(self, stages: Stages, t: float, y: Tensor, end: float) -> None:
        """Prepares for a solve from (t, y) to `end`."""

    @abstractmethod
    def propose(self, t: float, stop: float) -> float:
        """Where the step from t ends, not beyond `stop`."""

    @abstractmethod
    def accepts(self, stages: Stages, y: Tensor, h: float, y1: Tensor) -> bool:
        """Whether the step of size h from y to y1 is good enough."""

    @abstractmethod
    def forget_state(self) -> None:
        """The state was replaced: what was remembered of it is void."""


def same_step(h: float, t: float) -> float:
    """By how much steps of size h near t may differ through rounding alone."""
    return max(SAME_STEP * abs(h), 4 * math.ulp(t))
