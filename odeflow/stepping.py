"""The one integration loop: steps from the first time to the last, of equal size or under error control."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from odeflow.errors import SolveError
from odeflow.solver import Jump, Segment, Solution, Stats, Tape
from odeflow.stages import Stages
from odeflow.state import Field

SAFETY = 0.9
LARGEST_GROWTH = 10.0
LARGEST_SHRINKAGE = 0.2
SMALLEST_STEP = 8  # in spacings of floating-point numbers at the present time
SAME_STEP = 1e-6  # a step whose end is this part of itself from a time ends there


class StepControl(ABC):
    """Proposes the end of the next step, and judges the step once it was taken.

    Attributes:
        next_size: Size of the next step, where the control chooses it by the error of the last.
    """

    next_size: float | None = None

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


class FixedSteps(StepControl):
    """Equal steps.

    Args:
        t0: The first time.
        t1: The last time.
        count: Number of steps between them.
    """

    def __init__(self, t0: float, t1: float, count: int) -> None:
        self.t0, self.h = t0, (t1 - t0) / count

    def start(self, stages: Stages, t: float, y: Tensor, end: float) -> None:
        """Nothing to prepare."""

    def propose(self, t: float, stop: float) -> float:
        """The next point of the grid, or `stop` if that comes first or differs from it by rounding alone."""
        number = math.floor((t - self.t0) / self.h + SAME_STEP) + 1
        end = self.t0 + number * self.h
        return stop if (end - stop) / self.h > -SAME_STEP else end

    def accepts(self, stages: Stages, y: Tensor, h: float, y1: Tensor) -> bool:
        """Always."""
        return True

    def forget_state(self) -> None:
        """Nothing is remembered."""


class ErrorControl(StepControl):
    """Steps as large as the tolerances allow (elementary controller; Hairer, Nørsett & Wanner, II.4).

    A step is accepted if the root mean square over the state of error / (atol + rtol·max(|y|, |y₁|)) is at most 1.

    Args:
        rtol: Relative tolerance.
        atol: Absolute tolerance, in the state's unit.
        order: Order q of the weaker of the two solutions whose difference is the error: it falls as h^(q+1).
        first_step: Size of the first step; chosen from the field by default.
        min_step: Smallest step.
        max_step: Largest step.
        max_steps: Largest number of attempts.
    """

    def __init__(
        self,
        *,
        rtol: float,
        atol: float,
        order: int,
        first_step: float | None,
        min_step: float,
        max_step: float,
        max_steps: int,
    ) -> None:
        self.rtol, self.atol, self.exponent = rtol, atol, -1 / (order + 1)
        self.first_step, self.min_step, self.max_step, self.max_steps = first_step, min_step, max_step, max_steps
        self.h = 0.0  # size of the next step, signed
        self.attempts = 0
        self.size_of_y: Tensor | None = None  # |y| of the last accepted state
        self.smallest_scale: Tensor | None = None  # atol, where a tensor is added faster than a number

    def start(self, stages: Stages, t: float, y: Tensor, end: float) -> None:
        """Chooses the first step (Hairer, Nørsett & Wanner, II.4, "Starting Step Size").

        Raises:
            SolveError: The field is not finite at the start.
        """
        slope = stages.first_slope(t, y).detach()
        y = y.detach()
        size_of_y = y.abs()
        scale = size_of_y * self.rtol + self.atol
        size, speed = rms(y / scale), rms(slope / scale)
        if not math.isfinite(size + speed):
            culprit = "field" if math.isfinite(size) else "initial state"
            raise SolveError(f"the {culprit} is not finite at the start, t = {t:g}: look for inf and nan there")
        self.size_of_y = size_of_y
        h = self.first_step
        if h is None:
            trial = 0.01 * size / speed if min(size, speed) > 1e-5 else 1e-6
            trial = math.copysign(min(trial, abs(end - t)), end - t)
            with torch.no_grad():
                change = stages.evaluate(t + trial, y.add(slope, alpha=trial)) - slope
            steepest = max(speed, rms(change / scale) / abs(trial))
            h = 100 * abs(trial)
            if steepest > 1e-15:
                h = min(h, (0.01 / steepest) ** (1 / (stages.order + 1)))
        self.h = math.copysign(min(h, abs(end - t), self.max_step), end - t)

    def propose(self, t: float, stop: float) -> float:
        """One step of the present size, ending at `stop` at the latest.

        Raises:
            SolveError: There were too many attempts, or the step is too small.
        """
        if self.attempts >= self.max_steps:
            raise SolveError(
                f"max_steps = {self.max_steps} steps did not reach the end: at t = {t:g} the step size is "
                f"{abs(self.h):.3g}. Loosen rtol and atol, raise max_steps, or, if the "
                "problem is stiff, use an implicit solver such as Kvaerno5"
            )
        self.attempts += 1
        if abs(self.h) < max(self.min_step, SMALLEST_STEP * math.ulp(t)):
            raise SolveError(
                f"the step size fell to {abs(self.h):.3g} at t = {t:g}: near there the field jumps, varies too fast "
                "for the tolerances, or is not finite. Loosen rtol and atol, lower min_step, or look at the field there"
            )
        return stop if abs(stop - t) <= abs(self.h) * (1 + SAME_STEP) else t + self.h

    def accepts(self, stages: Stages, y: Tensor, h: float, y1: Tensor) -> bool:
        """Judges by the scaled error, and sets the size of the next step."""
        size_of_y = y.detach().abs() if self.size_of_y is None else self.size_of_y
        size_of_y1 = y1.detach().abs()
        if self.smallest_scale is None:
            self.smallest_scale = y1.new_tensor(self.atol)
        scale = torch.add(self.smallest_scale, torch.maximum(size_of_y, size_of_y1), alpha=self.rtol)
        error = abs(h) * rms(stages.error().div_(scale.reshape(-1)))
        accepted = error <= 1
        factor = LARGEST_SHRINKAGE  # also where the error is nan
        if error <= math.inf:
            factor = min(LARGEST_GROWTH, max(LARGEST_SHRINKAGE, SAFETY * max(error, 1e-30) ** self.exponent))
        size = abs(h) * factor
        if accepted:
            self.size_of_y = size_of_y1
            if abs(h) < abs(self.h) * (1 - SAME_STEP):  # cut short by a stop, it says nothing against the larger one
                size = max(size, abs(self.h))
        else:
            self.size_of_y = size_of_y
        self.next_size = min(size, self.max_step)
        self.h = math.copysign(self.next_size, h)
        return accepted

    def forget_state(self) -> None:
        """The size of the old state is void."""
        self.size_of_y = None


def rms(value: Tensor) -> float:
    """The root mean square over all entries."""
    flat = value.reshape(-1)
    return math.sqrt(float(flat.dot(flat)) / max(flat.numel(), 1))


class Outputs:
    """Collects the solution's rows as the steps pass the times that were asked for."""

    def __init__(self, t: Tensor, y0: Tensor) -> None:
        self.times: list[float] = t.tolist()
        self.blocks = [y0[None]]
        self.row = 1
        gaps = [abs(second - first) for first, second in pairwise(self.times)]
        largest = max(abs(self.times[0]), abs(self.times[-1]))
        self.tolerance = min(4 * torch.finfo(t.dtype).eps * largest, 0.25 * min(gaps))

    def inside(self, t: float, t1: float) -> list[float]:
        """The places θ between 0 and 1 of the times that lie inside the step."""
        places: list[float] = []
        sign, row = math.copysign(1.0, t1 - t), self.row
        while row < len(self.times) and sign * (t1 - self.times[row]) > self.tolerance:
            places.append((self.times[row] - t) / (t1 - t))
            row += 1
        return places

    def ends(self, t1: float) -> bool:
        """Whether the next time is the step's end."""
        return self.row < len(self.times) and abs(t1 - self.times[self.row]) <= self.tolerance

    def add(self, block: Tensor) -> slice:
        """Takes the next rows; returns which they are."""
        self.blocks.append(block)
        self.row += len(block)
        return slice(self.row - len(block), self.row)


def run(
    stages: Stages, control: StepControl, y0: Tensor, t: Tensor, *, tape: Tape | None = None, jump: Jump | None = None
) -> Solution:
    """The solution at the times t, by the contract of `Solver.integrate`."""
    stats = Stats()
    outputs = Outputs(t, y0)
    times = outputs.times
    stops = times[1:] if jump else times[-1:]
    now, y = times[0], y0
    control.start(stages, now, y, times[-1])
    for number, stop in enumerate(stops, start=1):
        while now != stop:
            end = control.propose(now, stop)
            h = end - now
            y1 = stages.step(now, h, y)
            if not control.accepts(stages, y, h, y1):
                stats.rejected += 1
                continue
            stats.count_step(abs(h))
            stats.suggested_step = stats.suggested_step or control.next_size
            stages.add_quadrature(h)
            places = outputs.inside(now, end)
            rows = outputs.add(stages.dense(places)) if places else slice(0, 0)
            end_row = outputs.add(y1[None]).start if outputs.ends(end) else None
            if tape is not None:
                rerun = partial(_rerun, stages.traced, now, h, places)
                dense = stages.interpolant() if tape.dense else None
                tape.append(Segment(y, rerun, rows, end_row, (now, end), dense))
            stages.advance()
            now, y = end, y1
        if jump:
            y = jump(number, y)
            stages.forget_slope()
            control.forget_state()
    stats.nfe_forward = stages.evaluations
    return Solution(t, torch.cat(outputs.blocks), stats)


def _rerun(
    stages_over: Callable[[Field], Stages], t: float, h: float, places: Sequence[float], field: Field, y: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The step from (t, y) once more: (state at its end, states at the places inside, if any)."""
    stages = stages_over(field)
    y1 = stages.step(t, h, y)
    return y1, stages.dense(places) if places else None
