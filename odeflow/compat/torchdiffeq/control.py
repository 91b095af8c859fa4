"""Step size control with torchdiffeq's options: user-defined norms, tolerances, grids and callbacks."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odeflow.engine.equation.clock import SAME_STEP
from odeflow.engine.loop.adaptive import Adaptive
from odeflow.engine.loop.control import SMALLEST_STEP, StepControl
from odeflow.engine.output.solution import SolveError
from odeflow.engine.step.stages import Stages
from odeflow.errors import SettingError

SHRINKING = 0.99  # upper bound of the factor after a rejected step, regardless of the options
Norm = Callable[[Tensor], Tensor | float]
Callback = Callable[[Tensor, object, Tensor], object]


@dataclass(frozen=True)
class Tolerance:
    """The options of an adaptive method.

    Attributes:
        rtol: Relative tolerance, scalar or one per entry.
        atol: Absolute tolerance, scalar or one per entry.
        first_step: Initial step size; None for automatic selection.
        min_step: Minimal step size. A step of this size is accepted regardless of its error.
        max_step: Maximal step size.
        safety: Safety factor of the step size.
        ifactor: Maximal factor by which the step size grows.
        dfactor: Minimal factor by which the step size shrinks.
        max_num_steps: Maximal number of attempts between two output times.
        step_t: Times at which a step must end.

    Raises:
        SettingError: An option is not a number, or is out of range.
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

    def __post_init__(self) -> None:
        for name in ("min_step", "safety", "ifactor", "dfactor"):
            check_option(name, getattr(self, name), positive=False)
        for name in ("first_step", "max_step", "max_num_steps"):
            check_option(name, getattr(self, name))


def check_option(name: str, value: float | None, positive: bool = True) -> None:
    """Rejects values that are not positive; without `positive`, those that are negative.

    Raises:
        SettingError: The value is out of range.
    """
    if value is not None and not (value > 0 or (value == 0 and not positive)):
        raise SettingError(f"{name} must be {'a positive number' if positive else 'at least 0'}; got {value:g}")


class TolerantSteps(StepControl):
    """Adaptive step size control by a user-defined error norm. The solve terminates for all options.

    Args:
        tolerance: The options.
        order: Order of the method.
        norm: Scaled error (*state) ↦ number; a step is accepted if it is at most 1.
        times: The output times; the count of attempts restarts at each.
    """

    def __init__(self, tolerance: Tolerance, order: int, norm: Norm, times: Sequence[float]) -> None:
        self.tolerance, self.order, self.norm = tolerance, order, norm
        self.sign = math.copysign(1.0, times[-1] - times[0])
        self.times = [self.sign * time for time in times]
        self.size = 0.0  # size of the next step
        self.taken = 0.0  # that size before truncation by a stop
        self.passed = self.attempts = self.in_a_row = 0
        self.finite = True  # whether the last error was finite

    def start(self, stages: Stages, t: float, y: Tensor, end: float) -> None:
        """Selects the initial step size.

        There is no warning about tolerances below float32 round-off: torchdiffeq's defaults are, and float32 is common.
        """
        options = self.tolerance
        rtol, atol = (float(torch.as_tensor(each).min()) for each in (options.rtol, options.atol))
        choice = Adaptive(
            rtol=max(rtol, 8 * torch.finfo(y.dtype).eps),
            atol=atol,
            first_step=options.first_step,
            min_step=0.0,
            max_step=options.max_step,
            max_steps=options.max_num_steps,
            controller="I",
            norm="rms",
            error_per="step",
        )
        first = choice.steps(t, end, self.order - 1)
        first.start(stages, t, y, end)
        self.size = self._bounded(abs(first.h))

    def _bounded(self, size: float) -> float:
        return min(max(size, self.tolerance.min_step), self.tolerance.max_step)

    def propose(self, t: float, stop: float) -> float:
        """The next step of the current size, truncated at the next of `step_t` and at `stop`.

        Raises:
            SolveError: There were too many attempts, or the step size underflows.
        """
        place, options = self.sign * t, self.tolerance
        passed = bisect_right(self.times, place)
        if passed > self.passed:
            self.passed, self.attempts = passed, 0
        if self.attempts >= options.max_num_steps:
            raise SolveError(
                f"max_num_steps = {options.max_num_steps:.0f} steps did not reach the next output time: at t = {t:g} "
                f"the step size is {self.size:.3g}. Loosen rtol and atol, raise max_num_steps, or use a method for "
                "stiff problems"
            )
        self.attempts += 1
        if self.size < SMALLEST_STEP * math.ulp(t):
            cause = "the field may be discontinuous, or the solution may blow up or vary too fast for the tolerances"
            if not self.finite:
                cause = "the state or the field is not finite"
            raise SolveError(
                f"the step size fell to {self.size:.3g} at t = {t:g}, after {self.in_a_row} rejections in a row: near "
                f"there {cause}. Loosen rtol and atol, give min_step, name the times of jumps in jump_t, or look at "
                "the field there"
            )
        stops = [time for time in options.step_t if place < self.sign * time < self.sign * stop]
        stop = min(stops, key=lambda time: self.sign * time) if stops else stop
        self.taken = min(self.size, abs(stop - t))
        return stop if abs(stop - t) <= self.size * (1 + SAME_STEP) else t + self.sign * self.size

    def accepts(self, stages: Stages, y: Tensor, h: float, y1: Tensor) -> bool:
        options, size = self.tolerance, self.taken
        estimate = stages.error()  # may evaluate the next step's first stage, which autograd must record
        with torch.no_grad():
            scale = options.atol + options.rtol * torch.maximum(y.abs(), y1.abs())
            error = abs(float(self.norm(estimate.view_as(y) * h / scale)))
        self.finite = error < math.inf
        accepted = error <= 1 or size <= options.min_step
        factor = options.dfactor
        if self.finite:
            least = 1.0 if error < 1 else options.dfactor
            factor = min(options.ifactor, max(options.safety / max(error, 1e-30) ** (1 / self.order), least))
        if accepted:
            self.in_a_row = 0
            cut = size < self.size  # truncated by a stop: uninformative about the larger size
            size = max(size * factor, self.size if cut else 0.0)
        else:
            self.in_a_row += 1
            size *= min(factor, SHRINKING)
        self.next_size = self.size = self._bounded(size)
        return accepted


class GridSteps(StepControl):
    """Steps along a grid.

    Args:
        grid: The monotone times.
    """

    def __init__(self, grid: Sequence[float]) -> None:
        self.sign = math.copysign(1.0, grid[-1] - grid[0])
        self.grid = [self.sign * time for time in grid]

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


@dataclass(frozen=True)
class Callbacks:
    """A field's callbacks (t, y, step size), called before and after each step.

    Attributes:
        view: The solver's state ↦ the user's state.
        step: Called before a step.
        accept_step: Called after an accepted step.
        reject_step: Called after a rejected step.
    """

    view: Callable[[Tensor], object]
    step: Callback | None = None
    accept_step: Callback | None = None
    reject_step: Callback | None = None

    def __bool__(self) -> bool:
        return any((self.step, self.accept_step, self.reject_step))


class ReportedSteps(StepControl):
    """Another step size control with callbacks.

    Args:
        control: The control that proposes and accepts the steps.
        callbacks: The callbacks.

    Attributes:
        y: The current state.
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
        accepted = bool(self.control.accepts(stages, y, h, y1))
        self.next_size = self.control.next_size
        self._call(self.callbacks.accept_step if accepted else self.callbacks.reject_step, h)
        self.y = y1 if accepted else y
        return accepted

    def forget_state(self) -> None:
        self.control.forget_state()


def around(grid: Sequence[float], time: float) -> tuple[int, int]:
    """The indices of the grid points around a time in an ascending grid; equal if the time is a grid point."""
    number = min(bisect_left(grid, time), len(grid) - 1)
    for near in (number, max(number - 1, 0)):
        if abs(grid[near] - time) <= 4 * math.ulp(time):
            return near, near
    return number - 1, number
