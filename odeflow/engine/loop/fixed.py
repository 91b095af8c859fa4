"""Fixed step size."""

import math
from dataclasses import dataclass

from torch import Tensor

from odeflow.engine.equation.clock import SAME_STEP, same_step
from odeflow.engine.loop.control import SMALLEST_STEP, StepControl
from odeflow.engine.step.stages import Stages
from odeflow.errors import SettingError

ADVICE = "take fewer steps, or raise max_steps"
MOST_FIXED = 1_000_000
"""The default of `max_steps` with a fixed step size."""


@dataclass(frozen=True)
class Fixed:
    """The options of a fixed step size, given by `step_size` or `num_steps`.

    Attributes:
        step_size: As in `Stepper`.
        num_steps: As in `Stepper`.
        max_steps: As in `Stepper`.

    Raises:
        SettingError: Neither or both are given, a value is not positive, or there are too many steps.
    """

    step_size: float | None = None
    num_steps: int | None = None
    max_steps: int = MOST_FIXED

    def __post_init__(self) -> None:
        if (self.step_size is None) == (self.num_steps is None):
            given = "neither was" if self.step_size is None else "both were"
            raise SettingError(f"give either step_size or num_steps; {given} given")
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise SettingError(f"{name} must be positive; got {value}")
        if self.num_steps is not None and self.num_steps > self.max_steps:
            raise SettingError(f"num_steps = {self.num_steps} exceeds max_steps = {self.max_steps}; {ADVICE}")

    def time_resolution(self, span: float) -> float:
        """As in `Solver`."""
        return 1e-3 * span / self.count(span)

    def count(self, span: float) -> int:
        """The number of steps in a time span.

        Raises:
            SettingError: There are more than `max_steps`.
        """
        if self.num_steps is not None:
            return self.num_steps
        step = self.step_size or span
        check_count(span, step, self.max_steps, ADVICE)
        return max(1, math.ceil(span / step - SAME_STEP))

    def steps(self, t0: float, t1: float, order: int | None) -> "FixedSteps":
        """The step size control of a solve from t0 to t1; the order of the error is ignored."""
        return FixedSteps(t0, t1, self.count(abs(t1 - t0)))


def check_count(span: float, step_size: float, most: int, advice: str) -> None:
    """Rejects a step size that takes too many steps.

    Args:
        span: Length of the time span.
        step_size: The step size.
        most: Maximum number of steps.
        advice: What to do, for the message.

    Raises:
        SettingError: There are more.
    """
    if span > most * step_size * (1 + SAME_STEP):
        raise SettingError(
            f"step_size = {step_size:g} takes {span / step_size:.3g} steps over a time span of {span:g}, more than "
            f"{most}: {advice}"
        )


class FixedSteps(StepControl):
    """A fixed step size: step n ends at t₀ + n (t₁ − t₀)/N.

    Args:
        t0: The first time.
        t1: The last time.
        count: Number N of steps between them.

    Raises:
        SettingError: The step size is close to the spacing of floating-point numbers at these times.
    """

    def __init__(self, t0: float, t1: float, count: int) -> None:
        self.t0, self.t1, self.count = t0, t1, count
        self.number = 0  # index of the next grid point
        far = max(abs(t0), abs(t1))
        self.slack, spacing = same_step((t1 - t0) / count, far), math.ulp(far)
        if abs(t1 - t0) < SMALLEST_STEP * spacing * count:
            raise SettingError(
                f"{count} fixed steps from t = {t0!r} to {t1!r} have a size of {abs(t1 - t0) / count:.3g}, but "
                f"floating-point numbers there are {spacing:.3g} apart. Take fewer steps, or measure time from a "
                "closer origin"
            )

    def propose(self, t: float, stop: float) -> float:
        """The next grid point, or `stop` if that is earlier or equal up to rounding."""
        sign = math.copysign(1.0, self.t1 - self.t0)
        while sign * (self._point(self.number) - t) <= self.slack:
            self.number += 1
        end = self._point(self.number)
        return stop if sign * (end - stop) > -self.slack else end

    def _point(self, number: int) -> float:
        return self.t0 + (self.t1 - self.t0) * (number / self.count)

    def accepts(self, stages: Stages, y: Tensor, h: float, y1: Tensor) -> bool:
        """Always."""
        return True
