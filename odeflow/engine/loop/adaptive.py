"""Adaptive step size."""

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from odeflow.engine.equation.clock import DTYPE, Number, Truth, arithmetic
from odeflow.engine.loop.control import SMALLEST_STEP, Place, StepControl
from odeflow.engine.loop.controller import Controller, Gains
from odeflow.engine.loop.step_size import first_size, next_size, step_end
from odeflow.engine.output.solution import SolveError
from odeflow.engine.step.stages import Stages
from odeflow.errors import SettingError

SMALLEST_PART = 2.0**-100  # smallest step size relative to the first
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
        self.shared = choice.error_per == "span"
        self.controller = Controller(choice.controller, order - self.shared)
        self.past = self.controller.unknown
        self.first_step, self.min_step, self.max_steps = choice.first_step, choice.min_step, choice.max_steps
        self.max_step = choice.max_step or math.inf
        self.span: Any = 0.0
        self.h: Any = 0.0  # signed size of the next step
        self.least: Any = 0.0  # smallest permitted step size
        self.cut: Truth = False  # whether a stop truncates the step: its error is uninformative about the proposed size
        self.error: Any = 0.0  # scaled, of the last step
        self.in_a_row: Any = 0  # consecutive rejections
        self.attempts = self.accepted = 0
        self.broken: Tensor | None = None  # the state or error of the last step, if not finite
        self.size_of_y: Tensor | None = None  # |y| of the last accepted state
        self.spare: Tensor | None = None  # memory for the next |y|, and for the scaled error
        self.room: Tensor | None = None
        self.smallest_scale: Tensor | None = None  # atol as a tensor, if that is faster to add

    def start(self, stages: Stages, t: Any, y: Tensor, end: Any) -> None:
        """Selects the initial step size.

        Raises:
            SolveError: The field is not finite at the start.
            SettingError: The norm requires a batch dimension, and the state has none.
        """
        self.on = on = arithmetic(t)
        self.apart = isinstance(t, Tensor)
        if self.norm == "max_sample" and y.dim() < 2 and not self.apart:
            raise SettingError(
                f"norm='max_sample' needs a state of shape (B, d, …), one Tensor; got {tuple(y.shape)}. Tuples are "
                "packed to that, and so is a state with penalties or a density. Use norm='rms'"
            )
        self.span, direction = abs(end - t), on.sign(end - t)
        slope = stages.first_slope(t, y).detach()
        y = y.detach()
        size_of_y = y.abs().to(DTYPE) if self.apart else y.abs()
        size, speed = self._scaled(y, size_of_y), self._scaled(slope, size_of_y)
        self._check_start(t, y, slope, size, speed)
        warn_of_rounding(self.rtol, self.atol, size, y.dtype)
        self.size_of_y = None if self.apart else size_of_y
        if self.first_step is None:

            def change(size: Any) -> Any:
                ahead = size * direction
                with torch.no_grad():
                    return self._scaled(stages.evaluate(t + ahead, on.moved(y, slope, ahead)) - slope, size_of_y)

            h = first_size(on, size, speed, self.span, change, stages.order)
        else:
            h = 0 * self.span + self.first_step
        h = on.minimum(on.minimum(on.maximum(h, self.min_step), self.span), self.max_step)
        self.h, self.least = h * direction, on.maximum(SMALLEST_PART * h, on.minimum(self.span, self.min_step))

    def _check_start(self, t: Any, y: Tensor, slope: Tensor, size: Any, speed: Any) -> None:
        """Rejects a state or a field that is not finite."""
        finite = torch.as_tensor(size + speed, dtype=DTYPE).isfinite()
        if bool(finite.all()):
            return
        number = int(finite.flatten().int().argmin())
        place = Place(0.0, 0, None, number, number)
        t, size = place.of(t), place.of(size)
        if self.atol == 0 and bool(y.isfinite().all()) and not bool(y.all()):
            raise SolveError(f"atol = 0 allows no error where the state is 0, as it is at t = {t:g}: give an atol")
        name, culprit = ("field", slope) if math.isfinite(size) else ("initial state", y)
        where = f" of sample {number}" if self.apart else ""
        message = f"the {name} is not finite at the start{where}, t = {t:g}: look for inf and nan there"
        raise SolveError(message, culprit)

    def _scaled(self, value: Tensor, size_of_y: Tensor, size_of_y1: Tensor | None = None) -> Any:
        """The norm of a value, a state or its flat form, in units of the tolerance atol + rtol·max(|y|, |y₁|).

        If it overflows or underflows in the state's dtype, it is recomputed in float64.
        """
        if value.dtype in HALF:
            value, size_of_y = value.float(), size_of_y.float()
        if self.smallest_scale is None:
            self.smallest_scale = size_of_y.new_tensor(self.atol)
        value, largest, room = value.view_as(size_of_y), size_of_y, None
        if size_of_y1 is not None:
            largest = self.room = room = torch.maximum(size_of_y, size_of_y1, out=self.room)
        scale = torch.add(self.smallest_scale, largest, alpha=self.rtol, out=room)
        scaled = torch.div(value, scale, out=room)
        if self.apart:
            return rms_of_samples(scaled)
        found = self._size(scaled)
        if math.isfinite(found) or not bool(value.isfinite().all()):
            return found
        if size_of_y1 is not None:
            size_of_y = torch.maximum(size_of_y, size_of_y1)
        value, size_of_y = value.to("cpu", torch.float64), size_of_y.to("cpu", torch.float64)
        return self._size(value / (size_of_y * self.rtol + self.atol))

    def _size(self, value: Tensor) -> float:
        return rms(value) if self.norm == "rms" else largest_rms(value.flatten(1))

    def propose(self, t: Any, stop: Any) -> Any:
        """The next step of the current size, truncated at `stop`."""
        self.attempts += 1
        self.exhausted = self.attempts >= self.max_steps
        end, self.cut = step_end(self.on, t, self.h, stop)
        return end

    def accepts(self, stages: Stages, y: Tensor, h: Any, y1: Tensor) -> Truth:
        """Whether the scaled error is small enough. Sets the size of the next step."""
        on, length = self.on, abs(h)
        if self.size_of_y is None:
            self.size_of_y = y.detach().abs()
        size_of_y1, estimate = torch.abs(y1.detach(), out=self.spare), stages.error().detach()
        scaled = self._scaled(estimate, self.size_of_y, size_of_y1)
        self.error = error = scaled * (on.where(length > 0, self.span, 0.0) if self.shared else length)
        accepted = error <= 1
        factor, self.past = self.controller.factor(error, self.cut, self.past)
        self.next_size = next_size(on, length, abs(self.h), factor, accepted, self.cut, self.max_step)
        self.h = self.next_size * on.sign(self.h)
        self.spare = size_of_y1
        if isinstance(accepted, Tensor):
            self.size_of_y, self.in_a_row = None, on.where(accepted, 0, self.in_a_row + 1)
            self.curious = self.attempts % STIFFNESS_EVERY == 0
        else:
            if accepted:
                self.size_of_y, self.spare = size_of_y1, self.size_of_y
            self.in_a_row = 0 if accepted else self.in_a_row + 1
            self.accepted += accepted
            self.curious = accepted and self.accepted % STIFFNESS_EVERY == 0
            broken = not (accepted or error < math.inf)
            self.broken = (estimate.view_as(y) if size_of_y1.isfinite().all() else y1) if broken else None
        return accepted

    def underflows(self, t: Any) -> Truth:
        return abs(self.h) < self.on.maximum(SMALLEST_STEP * self.on.spacing(t), self.least)

    def failure(self, place: Place) -> SolveError:
        h, at = f"{abs(place.of(self.h)):.3g}", f"at t = {place.t:g}"
        if self.exhausted:
            goal = "reach the end" if place.sample is None else f"take sample {place.sample} to its end"
            return SolveError(
                f"max_steps = {self.max_steps} steps did not {goal}: {at} the step size is {h}, after "
                f"{place.rejected} rejections. {advice(place.stiffness)}"
            )
        whose = "" if place.sample is None else f" of sample {place.sample}"
        count = round(place.of(self.in_a_row))
        rejections = "a rejection" if count == 1 else f"{count} rejections in a row"
        where = f"the step size{whose} fell to {h} {at}, after {rejections}: "
        if place.of(self.error) == math.inf or math.isnan(place.of(self.error)):
            return SolveError(
                f"{where}beyond there the state or the field is not finite. Look for inf and nan in the field there",
                self.broken,
            )
        return SolveError(
            f"{where}near there the field may be discontinuous, or the solution may blow up or vary too fast for "
            "the tolerances. Loosen rtol and atol, lower min_step, name the times of jumps in jump_ts, or look at the "
            "field there"
        )

    def forget_state(self) -> None:
        """Discards the size of the replaced state."""
        self.size_of_y = None

    def narrow(self, keep: Tensor) -> None:
        self.span, self.h, self.least, self.size_of_y = self.span[keep], self.h[keep], self.least[keep], None
        self.spare = self.room = None
        if isinstance(self.error, Tensor):
            self.error, self.in_a_row = self.error[keep], self.in_a_row[keep]
        self.past = tuple(each[keep] if isinstance(each, Tensor) else each for each in self.past)


def warn_of_rounding(rtol: float, atol: float, size: Number, dtype: torch.dtype) -> None:
    """Warns if the tolerances are below the rounding of a state of this size, in units of the tolerance."""
    if (size.max() if isinstance(size, Tensor) else size) * torch.finfo(dtype).eps > ROUNDING:
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


def rms_of_samples(value: Tensor) -> Tensor:
    """(b,), the root mean square over each sample's entries."""
    flat = value.reshape(len(value), -1)
    return torch.linalg.vector_norm(flat, dim=1, dtype=DTYPE) / math.sqrt(max(flat.shape[1], 1))


def rms(value: Tensor) -> float:
    """The root mean square over all entries."""
    flat = value.reshape(-1)
    return math.sqrt(float(flat.dot(flat)) / max(flat.numel(), 1))
