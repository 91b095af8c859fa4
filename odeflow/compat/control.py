"""Step control with torchdiffeq's options: norms and tolerances of the user's own, grids, callbacks."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odeflow.stages import Stages
from odeflow.stepping import SAME_STEP, ErrorControl, StepControl

Norm = Callable[[Tensor], Tensor | float]
Callback = Callable[[Tensor, object, Tensor], object]


@dataclass(frozen=True)
class Tolerance:
    """The options of an adaptive method.

    Attributes:
        rtol: Relative tolerance, one or one for each entry.
        atol: Absolute tolerance, likewise.
        first_step: Size of the first step; None: chosen from the field.
        min_step: A step of this size is accepted whatever its error.
        max_step: Largest step.
        safety: Part of the step size that the error asks for.
        ifactor: Largest growth of a step.
        dfactor: Largest shrinkage.
        max_num_steps: Largest number of attempts.
        step_t: Times at which a step ends.
    """

    rtol: float | Tensor = 1e-7
    atol: float | Tensor = 1e-9
    first_step: float | None = None
    min_step: float = 0.0
    max_step: float = math.inf
    safety: float = 0.9
    ifactor: float = 10.0
    dfactor: float = 0.2
    max_num_steps: int = 2**31 - 1
    step_t: tuple[float, ...] = ()


class TolerantSteps(StepControl):
    """Steps by an error in a norm of the user's.

    Args:
        tolerance: The options.
        order: Order of the method.
        norm: Scaled error, of the state's shape ↦ what must be at most 1.
    """

    def __init__(self, tolerance: Tolerance, order: int, norm: Norm) -> None:
        self.tolerance, self.order, self.norm = tolerance, order, norm
        rtol, atol = (float(torch.as_tensor(each).min()) for each in (tolerance.rtol, tolerance.atol))
        self.sizes = ErrorControl(  # chooses the first step, and refuses those that are too small or too many
            rtol=rtol,
            atol=atol,
            order=order - 1,
            first_step=tolerance.first_step,
            min_step=0.0,
            max_step=tolerance.max_step,
            max_steps=tolerance.max_num_steps,
        )

    def start(self, stages: Stages, t: float, y: Tensor, end: float) -> None:
        """Chooses the first step.

        torchdiffeq's default tolerances are beyond float32, in which it is mostly used: that is no reason to warn.
        """
        self.sizes.rtol = max(self.sizes.rtol, 8 * torch.finfo(y.dtype).eps)
        self.sizes.start(stages, t, y, end)

    def propose(self, t: float, stop: float) -> float:
        sign = math.copysign(1.0, stop - t)
        stops = [time for time in self.tolerance.step_t if sign * t < sign * time < sign * stop]
        return self.sizes.propose(t, min(stops, key=lambda time: sign * time) if stops else stop)

    def accepts(self, stages: Stages, y: Tensor, h: float, y1: Tensor) -> bool:
        options, size, chosen = self.tolerance, abs(h), abs(self.sizes.h)
        estimate = stages.error()  # may evaluate the slope that the next step begins with, and so needs autograd
        with torch.no_grad():
            scale = options.atol + options.rtol * torch.maximum(y.abs(), y1.abs())
            error = abs(float(self.norm(estimate.view_as(y) * h / scale)))
        accepted = error <= 1 or size <= options.min_step
        factor = options.dfactor  # also where the error is nan
        if error <= math.inf:
            least = 1.0 if error < 1 else options.dfactor
            factor = min(options.ifactor, max(options.safety / max(error, 1e-30) ** (1 / self.order), least))
        size *= factor
        if accepted:
            self.sizes.accepted, self.sizes.in_a_row = self.sizes.accepted + 1, 0
            if abs(h) < chosen * (1 - SAME_STEP):  # cut short by a stop
                size = max(size, chosen)
        else:
            self.sizes.in_a_row += 1
        self.next_size = min(max(size, options.min_step), options.max_step)
        self.sizes.h = math.copysign(self.next_size, h)
        return accepted

    def forget_state(self) -> None:
        """Nothing is remembered of it."""


class GridSteps(StepControl):
    """Steps from point to point of a grid.

    Args:
        grid: The times, monotone.
    """

    def __init__(self, grid: Sequence[float]) -> None:
        self.sign = math.copysign(1.0, grid[-1] - grid[0])
        self.grid = [self.sign * time for time in grid]

    def start(self, stages: Stages, t: float, y: Tensor, end: float) -> None:
        """Nothing to prepare."""

    def propose(self, t: float, stop: float) -> float:
        place = self.sign * t
        number = bisect_right(self.grid, place)
        while number < len(self.grid) and self.grid[number] - place <= 4 * math.ulp(place):
            number += 1
        end = self.sign * self.grid[number] if number < len(self.grid) else stop
        return stop if self.sign * (stop - end) <= 4 * math.ulp(stop) else end

    def accepts(self, stages: Stages, y: Tensor, h: float, y1: Tensor) -> bool:
        """Always."""
        return True

    def forget_state(self) -> None:
        """Nothing is remembered of it."""


@dataclass(frozen=True)
class Callbacks:
    """What a field wants to be called with, (t, y, size of the step), before and after each step.

    Attributes:
        view: Solver's state ↦ the state as the user knows it.
        step: Before a step.
        accept_step: After an accepted step.
        reject_step: After a rejected step.
    """

    view: Callable[[Tensor], object]
    step: Callback | None = None
    accept_step: Callback | None = None
    reject_step: Callback | None = None

    def __bool__(self) -> bool:
        return any((self.step, self.accept_step, self.reject_step))


class ReportedSteps(StepControl):
    """Steps of another control, which call back.

    Args:
        control: Chooses and judges the steps.
        callbacks: What is called.

    Attributes:
        y: The present state.
    """

    def __init__(self, control: StepControl, callbacks: Callbacks) -> None:
        self.control, self.callbacks = control, callbacks
        self.t, self.y = 0.0, torch.empty(0)

    def start(self, stages: Stages, t: float, y: Tensor, end: float) -> None:
        self.y = y
        self.control.start(stages, t, y, end)

    def propose(self, t: float, stop: float) -> float:
        end = self.control.propose(t, stop)
        self.t = t
        self._call(self.callbacks.step, end - t)
        return end

    def _call(self, callback: Callback | None, h: float) -> None:
        if callback is not None:
            t, size = torch.tensor((self.t, abs(h)), dtype=torch.float64, device=self.y.device).unbind()
            callback(t, self.callbacks.view(self.y), size)

    def accepts(self, stages: Stages, y: Tensor, h: float, y1: Tensor) -> bool:
        accepted = self.control.accepts(stages, y, h, y1)
        self.next_size = self.control.next_size
        self._call(self.callbacks.accept_step if accepted else self.callbacks.reject_step, h)
        self.y = y1 if accepted else y
        return accepted

    def forget_state(self) -> None:
        self.control.forget_state()


def around(grid: Sequence[float], time: float) -> tuple[int, int]:
    """The numbers of the points of an ascending grid at or around a time, twice the same where it is a point itself."""
    number = min(bisect_left(grid, time), len(grid) - 1)
    for near in (number, max(number - 1, 0)):
        if abs(grid[near] - time) <= 4 * math.ulp(time):
            return near, near
    return number - 1, number
