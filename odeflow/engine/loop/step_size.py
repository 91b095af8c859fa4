"""Step sizes: their formulas, for floats and for tensors alike."""

from collections.abc import Callable
from typing import Any

from odeflow.engine.equation.clock import SAME_STEP, Arithmetic

FIRST_CHANGE = 0.1  # h^(p+1) max(|f|, |f′|) of the first step, in units of the tolerance and of |y|/|f|
TINY = 1e-300  # a divisor instead of 0


def first_size(on: Arithmetic, size: Any, speed: Any, span: Any, change: Callable[[Any], Any], order: float) -> Any:
    """The size of the first step (Hairer, Nørsett & Wanner, II.4, "Starting Step Size").

    Time is measured in units of |y|/|f|, so that the choice is invariant under a change of the unit of time. The
    constant is 0.1 instead of 0.01.

    Args:
        on: The arithmetic of the sizes.
        size: The norm of y, in units of the tolerance.
        speed: That of f, in them.
        span: The length of the solve.
        change: h ↦ the norm of the change of f by an Euler step of this size, in them; may be nan.
        order: Order of the method.
    """
    usual = on.minimum(size, speed * span) > 1e-5
    unit = on.where(usual, size / on.maximum(speed, TINY), span)
    trial = on.minimum(on.where(usual, 0.01 * unit, 1e-6 * unit), span)
    bend = change(trial) / trial * unit
    steepest = on.where(bend > speed, bend, speed) * unit
    return on.minimum(100 * trial, unit * (FIRST_CHANGE / on.maximum(steepest, 1e-15)) ** (1 / (order + 1)))


def step_end(on: Arithmetic, t: Any, h: Any, stop: Any) -> tuple[Any, Any]:
    """(the end of a step of signed size h from t, whether `stop` truncates it)."""
    left, size = abs(stop - t), abs(h)
    return on.where(left <= size * (1 + SAME_STEP), stop, t + h), left < size * (1 - SAME_STEP)


def next_size(on: Arithmetic, length: Any, proposed: Any, factor: Any, accepted: Any, cut: Any, most: Any) -> Any:
    """The size of the next step.

    Args:
        on: The arithmetic of the sizes.
        length: The size of the last step.
        proposed: The size that was proposed for it, which a stop may have truncated.
        factor: The controller's factor.
        accepted: Whether the step was accepted.
        cut: Whether it was truncated.
        most: The largest size.
    """
    size = length * factor
    return on.minimum(on.where(accepted & cut, on.maximum(size, proposed), size), most)
