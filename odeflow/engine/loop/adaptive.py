"""Adaptive step size."""

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from odeflow.engine.equation.clock import SAME_STEP
from odeflow.engine.loop.control import SMALLEST_STEP, StepControl
from odeflow.engine.loop.controller import Controller, Gains
from odeflow.engine.output.solution import SolveError
from odeflow.engine.step.stages import Stages
from odeflow.errors import SettingError

SMALLEST_PART = 2.0**-100  # smallest step size relative to the first
FIRST_CHANGE = 0.1  # h^(p+1) max(|f|, |f′|) of the first step, in units of the tolerance and of |y|/|f|
HALF = (torch.float16, torch.bfloat16)
STIFFNESS_EVERY = 10  # accepted steps
STIFF = 2.0  # the h|λ| at which stability bounds the steps of explicit methods
ROUNDING = 0.25  # fraction of the tolerance at which rounding of the state triggers a warning
MOST_ADAPTIVE = 10_000  # default of `max_steps`
Norm = Literal["rms", "max_sample"]
ErrorPer = Literal["step", "span"]


def check_tolerances(rtol: float, atol: float) -> None:
    """Rejects invalid tolerances.

    Args:
        rtol: Relative tolerance.
        atol: Absolute tolerance.

    Raises:
        SettingError: A tolerance is negative, both are 0, or rtol is at least 1.
    """
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise SettingError(f"rtol and atol must not be negative, nor both 0; got {rtol} and {atol}")
    if not rtol < 1:
        raise SettingError(f"rtol must be below 1, the error of no solution at all; got {rtol}")


@dataclass(frozen=True)
class Adaptive:
    """The options of adaptive step size control, for methods with an error estimate.

    The attributes are the options of `Stepper` of these names.

    Raises:
        SettingError: A value is out of range.
    """

    rtol: float
    atol: float
    first_step: float | None
    min_step: float
    max_step: float | None
    max_steps: int
    controller: Gains
    norm: Norm
    error_per: ErrorPer

    def __post_init__(self) -> None:
        check_tolerances(self.rtol, self.atol)
        for option in ("first_step", "max_step", "max_steps"):
            value = getattr(self, option)
            if value is not None and not value > 0:
                raise SettingError(f"{option} must be positive; got {value}")
        if not 0 <= self.min_step <= (self.max_step or math.inf):
            raise SettingError(f"min_step must lie between 0 and max_step; got {self.min_step}")
        if self.norm not in ("rms", "max_sample"):
            raise SettingError(f"norm must be 'rms' or 'max_sample'; got {self.norm!r}")
        if self.error_per not in ("step", "span"):
            raise SettingError(f"error_per must be 'step' or 'span'; got {self.error_per!r}")
        Controller(self.controller, 1)  # validates the gains

    def time_resolution(self, span: float) -> float:
        """As in `Solver`."""
        return 10 * (self.rtol or self.atol) * span

    def steps(self, t0: float, t1: float, order: int) -> "ErrorControl":
        """The step size control of a solve with a local error O(h^(order+1))."""
        return ErrorControl(self, order)


class ErrorControl(StepControl):
    """Adaptive step size control (Hairer, Nørsett & Wanner, II.4).

    A step is accepted if the norm of error / (atol + rtol·max(|y|, |y₁|)) is at most 1; with `error_per="span"`, at
    most |h|/|t₁ − t₀|, so that the sum of all local errors is within the tolerances.

    Args:
        choice: The tolerances and the bounds of the step size.
        order: Order q of the less accurate solution of the pair; the error estimate is O(h^(q+1)).
    """

    def __init__(self, choice: "Adaptive", order: float) -> None:
        self.rtol, self.atol, self.norm = choice.rtol, choice.atol, choice.norm
        self.shared, self.span = choice.error_per == "span", 0.0  # the span is set by `start`
        self.controller = Controller(choice.controller, order - self.shared)
        self.first_step, self.min_step, self.max_steps = choice.first_step, choice.min_step, choice.max_steps
        self.max_step = choice.max_step or math.inf
        self.h = 0.0  # signed size of the next step
        self.least = 0.0  # smallest permitted step size
        self.cut = False  # whether a stop truncates the step: its error is uninformative about the proposed size
        self.attempts = self.accepted = 0
        self.in_a_row = 0  # consecutive rejections
        self.broken: Tensor | None = None  # the state or error of the last step, if not finite
        self.stiffness_sum, self.stiffness_count = 0.0, 0
        self.size_of_y: Tensor | None = None  # |y| of the last accepted state
        self.smallest_scale: Tensor | None = None  # atol as a tensor, if that is faster to add

    def start(self, stages: Stages, t: float, y: Tensor, end: float) -> None:
        """Selects the initial step size (Hairer, Nørsett & Wanner, II.4, "Starting Step Size").

        Time is measured in units of |y|/|f|, so that the choice is invariant under a change of the unit of time. The
        constant is 0.1 instead of 0.01.

        Raises:
            SolveError: The field is not finite at the start.
            SettingError: The norm requires a batch dimension, and the state has none.
        """
        if self.norm == "max_sample" and y.dim() < 2:
            raise SettingError(
                f"norm='max_sample' needs a state of shape (B, d, …), one Tensor; got {tuple(y.shape)}. Tuples are "
                "packed to that, and so is a state with penalties or a density. Use norm='rms'"
            )
        self.span = abs(end - t)
        slope = stages.first_slope(t, y).detach()
        y = y.detach()
        size_of_y = y.abs()
        size, speed = self._scaled(y, size_of_y), self._scaled(slope, size_of_y)
        if not math.isfinite(size + speed):
            if self.atol == 0 and bool(y.isfinite().all()) and not bool(y.all()):
                raise SolveError(f"atol = 0 allows no error where the state is 0, as it is at t = {t:g}: give an atol")
            name, culprit = ("field", slope) if math.isfinite(size) else ("initial state", y)
            raise SolveError(f"the {name} is not finite at the start, t = {t:g}: look for inf and nan there", culprit)
        warn_of_rounding(self.rtol, self.atol, size, y.dtype)
        self.size_of_y = size_of_y
        h = self.first_step
        if h is None:
            usual = min(size, speed * self.span) > 1e-5
            unit = size / speed if usual else self.span
            trial = math.copysign(min((0.01 if usual else 1e-6) * unit, self.span), end - t)
            with torch.no_grad():
                change = stages.evaluate(t + trial, y.add(slope, alpha=trial)) - slope
            steepest = max(speed, self._scaled(change, size_of_y) / abs(trial) * unit) * unit
            h = 100 * abs(trial)
            if steepest > 1e-15:
                h = min(h, unit * (FIRST_CHANGE / steepest) ** (1 / (stages.order + 1)))
        self.h = math.copysign(min(max(h, self.min_step), self.span, self.max_step), end - t)
        self.least = SMALLEST_PART * abs(self.h)

    def _scaled(self, value: Tensor, size_of_y: Tensor) -> float:
        """The norm of a value, a state or its flat form, in units of the tolerance atol + rtol·|y|.

        If it overflows or underflows in the state's dtype, it is recomputed in float64.
        """
        if value.dtype in HALF:
            value, size_of_y = value.float(), size_of_y.float()
        if self.smallest_scale is None:
            self.smallest_scale = size_of_y.new_tensor(self.atol)
        value = value.view_as(size_of_y)
        found = self._size(value / torch.add(self.smallest_scale, size_of_y, alpha=self.rtol))
        if math.isfinite(found) or not bool(value.isfinite().all()):
            return found
        value, size_of_y = value.to("cpu", torch.float64), size_of_y.to("cpu", torch.float64)
        return self._size(value / (size_of_y * self.rtol + self.atol))

    def _size(self, value: Tensor) -> float:
        return rms(value) if self.norm == "rms" else largest_rms(value.flatten(1))

    def propose(self, t: float, stop: float) -> float:
        """The next step of the current size, truncated at `stop`.

        Raises:
            SolveError: There were too many attempts, or the step size underflows.
        """
        if self.attempts >= self.max_steps:
            raise SolveError(
                f"max_steps = {self.max_steps} steps did not reach the end: at t = {t:g} the step size is "
                f"{abs(self.h):.3g}, after {self.attempts - self.accepted} rejections. {advice(self.stiffness)}"
            )
        self.attempts += 1
        if abs(self.h) < max(min(self.min_step, self.span), SMALLEST_STEP * math.ulp(t), self.least):
            where = f"the step size fell to {abs(self.h):.3g} at t = {t:g}, after {self.in_a_row} rejections in a row: "
            if self.broken is not None:
                raise SolveError(
                    where
                    + "beyond there the state or the field is not finite. Look for inf and nan in the field there",
                    self.broken,
                )
            raise SolveError(
                where + "near there the field jumps, or the solution grows without bound or varies too fast for the "
                "tolerances. Loosen rtol and atol, lower min_step, name the times of jumps in jump_ts, or look at the "
                "field there"
            )
        left, size = abs(stop - t), abs(self.h)
        self.cut = left < size * (1 - SAME_STEP)
        return stop if left <= size * (1 + SAME_STEP) else t + self.h

    def accepts(self, stages: Stages, y: Tensor, h: float, y1: Tensor) -> bool:
        """Whether the scaled error is small enough. Sets the size of the next step."""
        size_of_y = y.detach().abs() if self.size_of_y is None else self.size_of_y
        size_of_y1 = y1.detach().abs()
        estimate = stages.error()
        scaled = self._scaled(estimate, torch.maximum(size_of_y, size_of_y1))
        error = (self.span if self.shared else abs(h)) * scaled
        accepted = error <= 1
        size = abs(h) * self.controller.factor(error, self.cut)
        if accepted:
            self.size_of_y, self.in_a_row = size_of_y1, 0
            self.accepted += 1
            if self.cut:
                size = max(size, abs(self.h))
            if self.accepted % STIFFNESS_EVERY == 0:
                self._look_at_stiffness(stages)
        else:
            self.size_of_y = size_of_y
            self.in_a_row += 1
            self.broken = None if error < math.inf else estimate.view_as(y) if size_of_y1.isfinite().all() else y1
        self.next_size = min(size, self.max_step)
        self.h = math.copysign(self.next_size, h)
        return accepted

    def _look_at_stiffness(self, stages: Stages) -> None:
        seen = stages.stiffness()
        if seen is not None:
            self.stiffness_sum, self.stiffness_count = self.stiffness_sum + seen, self.stiffness_count + 1
            self.stiffness = self.stiffness_sum / self.stiffness_count

    def forget_state(self) -> None:
        """Discards the size of the replaced state."""
        self.size_of_y = None


def warn_of_rounding(rtol: float, atol: float, size: float, dtype: torch.dtype) -> None:
    """Warns if the tolerances are below the rounding of a state of this size, in units of the tolerance."""
    if size * torch.finfo(dtype).eps > ROUNDING:
        warnings.warn(
            f"rtol = {rtol:g} and atol = {atol:g} ask for more digits than {dtype} has: steps will be "
            "many and small, for rounding errors. Loosen them, or solve in float64",
            stacklevel=2,
        )


def advice(stiffness: float | None) -> str:
    """The advice against too many steps, given the mean h|λ|."""
    if stiffness is not None and stiffness > STIFF:
        return (
            f"The problem is stiff: the step size times the field's largest eigenvalue is {stiffness:.2g}, so that "
            "stability bounds the steps. Use an implicit solver, such as Kvaerno5"
        )
    return "Loosen rtol and atol, raise max_steps, or use an implicit solver, such as Kvaerno5, if it is stiff"


def largest_rms(samples: Tensor) -> float:
    """The largest root mean square among the rows of (B, n)."""
    return float(samples.square().mean(1).max().sqrt()) if samples.numel() else 0.0


def rms(value: Tensor) -> float:
    """The root mean square over all entries."""
    flat = value.reshape(-1)
    return math.sqrt(float(flat.dot(flat)) / max(flat.numel(), 1))
