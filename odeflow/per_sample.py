"""Per-sample stepping: each sample of a batch has its own clock, its own step size, and its own accepted steps."""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor

from odeflow.errors import SolveError, StateError
from odeflow.solver import Segment, Solution, Stats, Tape
from odeflow.stages import TracedStages, ValueStages
from odeflow.state import Field, check_shape
from odeflow.stepping import (
    LARGEST_GROWTH,
    LARGEST_SHRINKAGE,
    SAFETY,
    SAME_STEP,
    SMALLEST_STEP,
    ErrorControl,
)
from odeflow.tableau import Tableau

SlopeStages = ValueStages | TracedStages
DTYPE = torch.float64  # of clocks and step sizes
NARROW_AT = 0.75  # finished samples are left out once no more than this part of those in the batch is on its way


class OwnClocks:
    """A field as a function of the time τ that runs from 0 to 1 in every sample's own step: dy/dτ = h f(t + τh, y).

    So a step of each sample's own size is one common step of size 1, for which `Stages` are made.

    Args:
        inner: (t of shape (b,), y of shape (b, *state)) ↦ slopes.

    Attributes:
        t: (b,), where each sample's step begins.
        h: (b,), its size; a sample of size 0 stays where it is.
        known: (b, *state), the slopes at the beginning, which are used at the next call instead of an evaluation.
        slope: (b, *state), the slopes dy/dt of the last call.
        evaluations: How often the field was evaluated.
    """

    t: Tensor
    h: Tensor
    slope: Tensor

    def __init__(self, inner: Field) -> None:
        self.inner = inner
        self.known: Tensor | None = None
        self.evaluations = 0

    def set(self, t: Tensor, h: Tensor, known: Tensor | None = None) -> None:
        """Goes to the beginning of the next step."""
        self.t, self.h, self.known = t, h, known

    def __call__(self, tau: Tensor, y: Tensor) -> Tensor:
        if self.known is None:
            self.slope = self.evaluate(self.t + tau * self.h, y)
        else:
            self.slope, self.known = self.known, None
        return self.slope * column(self.h, y)

    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt at each sample's own time, counted and checked.

        Raises:
            StateError: The field's value has another shape than y.
        """
        self.evaluations += 1
        try:
            slope = self.inner(t.to(y), y)
        except (RuntimeError, ValueError, StateError) as problem:
            problem.add_note(
                "Under per_sample=True the field is called with one time for each sample: "
                f"t of shape {tuple(t.shape)}, y of shape {tuple(y.shape)}."
            )
            raise
        if slope.shape != y.shape:
            check_shape(slope, y.shape, f", called with t of shape {tuple(t.shape)},")
        return slope


def column(values: Tensor, y: Tensor) -> Tensor:
    """(b,) ↦ (b, 1, …), to be multiplied with states like y."""
    return values.to(y).view(-1, *(1,) * (y.dim() - 1))


@dataclass
class Samples:
    """Those samples of the batch that are stepped.

    Attributes:
        ids: (b,), their numbers in the batch.
        t: (b,), their clocks.
        stop: (b,), where they end.
        h: (b,), sizes of their next steps, signed.
        y: (b, *state).
        row: (b,), the row of the solution that each comes to next.
        first: (b, *state), f(t, y), where the last step has left it.
    """

    ids: Tensor
    t: Tensor
    stop: Tensor
    h: Tensor
    y: Tensor
    row: Tensor
    first: Tensor | None

    def narrowed(self, keep: Tensor) -> "Samples":
        """Some of them, by their numbers in here."""
        parts = {name: None if value is None else value[keep] for name, value in vars(self).items()}
        return Samples(**parts)

    def step(self) -> tuple[Tensor, Tensor]:
        """(where the next step ends, its size), each (b,); samples at their end stay."""
        end = torch.where((self.stop - self.t).abs() <= self.h.abs() * (1 + SAME_STEP), self.stop, self.t + self.h)
        return end, end - self.t


@dataclass(frozen=True)
class Passed:
    """The output times that the samples pass in one step.

    Attributes:
        sample: (m,), which sample passes the time, for the times inside its step.
        theta: (m,), the place of the time in that step, between 0 and 1.
        row: (m,), the row of the solution.
        ending: (k,), which samples end their step at an output time.
        ending_row: (k,), the rows of the solution.
    """

    sample: Tensor
    theta: Tensor
    row: Tensor
    ending: Tensor
    ending_row: Tensor

    def __len__(self) -> int:
        return len(self.row) + len(self.ending_row)

    def values(self, stages: SlopeStages, tableau: Tableau, y: Tensor, y1: Tensor) -> Tensor:
        """(m + k, *state), the states at these times, after the step from y to y1.

        y(t + θh) = y + Σ_d θᵈ P_d, where the coefficients P of all samples are one product with the slopes.
        """
        ends = y1[self.ending]
        if not len(self.sample):
            return ends
        stages.last_slope()
        slopes = stages.slopes if isinstance(stages, ValueStages) else torch.stack(list(stages.slopes))
        coefficients = slopes.new_tensor(tableau.interpolation).t() @ slopes.flatten(1)
        coefficients = coefficients.view(-1, *y.shape)
        theta = column(self.theta, y)
        inside = coefficients[-1][self.sample] * theta
        for lower in coefficients[:-1].flip(0):
            inside = (inside + lower[self.sample]) * theta
        return torch.cat((y[self.sample] + inside, ends))


class Outputs:
    """The solution's rows, of which each sample passes as many in a step as lie there.

    Args:
        t: (T,) or (B, T), the times.
        y0: (B, *state), row 0.
    """

    def __init__(self, t: Tensor, y0: Tensor) -> None:
        times = t.to(y0.device, DTYPE)
        gaps = times.diff().abs().amin(-1)
        largest = times[..., [0, -1]].abs().amax(-1)
        self.tolerance = (4 * torch.finfo(t.dtype).eps * largest).minimum(0.25 * gaps)
        self.sign = 1.0 if bool((times[..., -1] > times[..., 0]).all()) else -1.0
        self.times = (times * self.sign).contiguous()  # ascending
        self.shape = (t.shape[-1], *y0.shape)
        self.values = [y0]
        self.places = [torch.arange(len(y0), device=y0.device)]

    def count(self, samples: Samples, end: Tensor) -> tuple[Tensor, Tensor]:
        """For steps that end there: the first row (b,) not inside each step, and the first not passed by it."""
        end = end * self.sign
        if self.times.dim() == 1:
            return (
                torch.searchsorted(self.times, end - self.tolerance),
                torch.searchsorted(self.times, end + self.tolerance, right=True),
            )
        times, end, tolerance = self.times[samples.ids], end[:, None], self.tolerance[samples.ids, None]
        inside = torch.searchsorted(times, end - tolerance)
        return inside.squeeze(1), torch.searchsorted(times, end + tolerance, right=True).squeeze(1)

    def passed(self, samples: Samples, h: Tensor, inside: Tensor, beyond: Tensor) -> Passed:
        """The rows from each sample's next one to those of `count`.

        Args:
            samples: At the beginning of the step.
            h: (b,), sizes of the step.
            inside: (b,), the first row not inside, not below `samples.row`.
            beyond: (b,), the first row not passed.
        """
        number = inside - samples.row
        sample = torch.repeat_interleave(number)
        first = number.cumsum(0) - number
        row = torch.arange(len(sample), device=sample.device) + (samples.row - first)[sample]
        times = self.times[row] if self.times.dim() == 1 else self.times[samples.ids[sample], row]
        theta = (times * self.sign - samples.t[sample]) / h[sample]
        ending = (beyond > inside).nonzero().squeeze(1)
        return Passed(sample, theta, row, ending, inside[ending])

    def add(self, samples: Samples, passed: Passed, values: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the states at the times passed; returns (row, sample) of each in the solution."""
        rows = torch.cat((passed.row, passed.ending_row))
        ids = samples.ids[torch.cat((passed.sample, passed.ending))]
        self.values.append(values)
        self.places.append(rows * self.shape[1] + ids)
        return rows, ids

    def solution(self) -> Tensor:
        """(T, B, *state)."""
        places = torch.cat(self.places)
        order = torch.empty_like(places).scatter_(0, places, torch.arange(len(places), device=places.device))
        return torch.cat(self.values)[order].view(self.shape)


@dataclass
class Tally:
    """What the steps of the samples took.

    Attributes:
        accepted: (B,).
        rejected: (B,).
        smallest: (), the smallest accepted step.
        largest: (), the largest.
    """

    accepted: Tensor
    rejected: Tensor
    smallest: Tensor
    largest: Tensor

    def add(self, samples: Samples, h: Tensor, taken: Tensor, refused: Tensor) -> None:
        """Counts a step of each sample.

        Args:
            samples: Whose.
            h: (b,), sizes.
            taken: (b,), whether it was accepted.
            refused: (b,), whether it was rejected.
        """
        self.accepted[samples.ids] += taken
        self.rejected[samples.ids] += refused
        size = h.abs()
        self.smallest = torch.minimum(self.smallest, size.where(taken, math.inf).amin())
        self.largest = torch.maximum(self.largest, size.where(taken, 0).amax())

    def stats(self, evaluations: int) -> Stats:
        """The statistics; the number of steps is that of the sample that took the most."""
        slowest = int((self.accepted + self.rejected).argmax())
        return Stats(
            nfe_forward=evaluations,
            accepted=int(self.accepted[slowest]),
            rejected=int(self.rejected[slowest]),
            smallest_step=float(self.smallest),
            largest_step=float(self.largest),
            accepted_per_sample=self.accepted,
            rejected_per_sample=self.rejected,
        )


@dataclass
class PerSample:
    """A solve in which every sample goes its own way.

    Each sample follows the step control of `ErrorControl`, with the error's mean over its own entries alone. All that
    are on their way are stepped by one call of the field, with t of shape (b,). Finished ones are left out from time to
    time, unless the field turns out to need the whole batch, as it does if it holds data of each sample.

    Attributes:
        tableau: The method.
        control: The tolerances and bounds of the steps.
        clocks: The field.
        tape: Takes the segments, if there is one.
        separable: Whether the field gives samples alone the slopes that it gives them in the batch; None before this
            was tried.
    """

    tableau: Tableau
    control: ErrorControl
    clocks: OwnClocks
    tape: Tape | None
    separable: bool | None = field(default=None, init=False)

    def solve(self, y0: Tensor, t: Tensor) -> Solution:
        """The solution at the times t, (T,) or (B, T), by the contract of `Solver.integrate`."""
        samples, outputs = self._started(y0, t), Outputs(t, y0)
        zeros = torch.zeros(len(y0), dtype=torch.long, device=y0.device)
        bound = samples.t.new_zeros(())
        tally = Tally(zeros, zeros.clone(), bound + math.inf, bound)
        stages = self._stages(y0)
        left, rounds = len(y0), 0
        while left:
            if left <= NARROW_AT * len(samples.ids) and (narrower := self._narrowed(samples)) is not None:
                samples, stages = narrower, self._stages(narrower.y)
            if rounds >= self.control.max_steps:
                self._give_up(samples)
            rounds += 1
            samples, left = self._step(samples, stages, outputs, tally)
        if self.tape is not None and len(samples.ids) < len(y0):
            widen = partial(_widened, samples.ids, y0.shape)
            self.tape.append(Segment(samples.y, widen, slice(0, 0), None))
        return Solution(t, outputs.solution(), tally.stats(self.clocks.evaluations))

    def _started(self, y: Tensor, t: Tensor) -> Samples:
        """All samples at their first times, with the sizes of their first steps as `ErrorControl.start` chooses them."""
        if y.dim() == 0 or not len(y):
            raise StateError(f"per_sample=True needs a batch of states, (B, …) with B > 0; got shape {tuple(y.shape)}")
        times = t.to(y.device, DTYPE).expand(len(y), -1)
        start, stop = times[:, 0].contiguous(), times[:, -1].contiguous()
        self._check_times_are_apart(y, start, stop)
        first = self.clocks.evaluate(start, y)
        control, order = self.control, self.tableau.order
        with torch.no_grad():
            scale = y.abs() * control.rtol + control.atol
            size, speed = rms(y / scale), rms(first / scale)
            finite = torch.stack((size.isfinite(), speed.isfinite()))
            if not bool(finite.all()):
                number = int(finite.all(0).logical_not().nonzero()[0])
                culprit = "field" if bool(finite[0, number]) else "initial state"
                raise SolveError(
                    f"the {culprit} is not finite at the start of sample {number}, t = {float(start[number]):g}: "
                    "look for inf and nan there"
                )
            distance, direction = (stop - start).abs(), (stop - start).sign()
            if control.first_step is not None:
                h = torch.full_like(start, control.first_step)
            else:
                trial = (0.01 * size / speed).where(torch.minimum(size, speed) > 1e-5, 1e-6).minimum(distance)
                ahead = trial * direction
                change = self.clocks.evaluate(start + ahead, y + first * column(ahead, y)) - first
                steepest = torch.maximum(speed, rms(change / scale) / trial)
                largest = (0.01 / steepest).pow(1 / (order + 1)).where(steepest > 1e-15, math.inf)
                h = torch.minimum(100 * trial, largest)
            h = h.minimum(distance).clamp_max(control.max_step) * direction
        ids = torch.arange(len(y), device=y.device)
        samples = Samples(ids, start, stop, h, y, torch.ones_like(ids), first)
        if bool(self._too_small(samples).any()):
            self._give_up(samples)
        return samples

    def _check_times_are_apart(self, y: Tensor, start: Tensor, stop: Tensor) -> None:
        """Refuses a field in which t of shape (B,) meets the last dimension of y, which broadcasting would hide.

        Only where that dimension is of size B too can this go unnoticed, so that it is looked for only there.
        """
        if y.dim() < 2 or len(y) == 1 or y.shape[-1] != len(y):
            return
        with torch.no_grad():
            times = start + (stop - start) * torch.linspace(0, 1, len(y), dtype=DTYPE, device=y.device)
            apart = self.clocks.evaluate(times, y)[-1]
            alike = self.clocks.evaluate(times[-1].expand(len(y)), y)[-1]
        if not _alike(apart, alike):
            raise StateError(
                f"the field takes the times of the samples, t of shape {tuple(start.shape)}, for times of the entries "
                f"of the last dimension of y, {tuple(y.shape)}. Under per_sample=True write t.view(-1, 1) where t "
                "meets y, with as many dimensions as y has"
            )

    def _step(self, samples: Samples, stages: SlopeStages, outputs: Outputs, tally: Tally) -> tuple[Samples, int]:
        """One attempt of every sample: (the samples after it, how many are on their way yet)."""
        y, (end, h) = samples.y, samples.step()
        if samples.first is None:
            samples.first = self.clocks.evaluate(samples.t, y)
        y1 = self._stepped(stages, samples, h)
        with torch.no_grad():
            error = self._error(stages, y, y1)
            accepted = error <= 1
            factor = SAFETY * error.clamp_min(1e-30).pow(self.control.exponent)
            factor = factor.clamp(LARGEST_SHRINKAGE, LARGEST_GROWTH).nan_to_num(LARGEST_SHRINKAGE)
            size = (h.abs() * factor).clamp_max(self.control.max_step)
            moving = samples.t != samples.stop
            tally.add(samples, h, accepted & moving, ~accepted & moving)
            inside, beyond = (torch.where(accepted, row, samples.row) for row in outputs.count(samples, end))
            inside = torch.maximum(inside, samples.row)
            next_samples = replace(
                samples, t=torch.where(accepted, end, samples.t), h=size * h.sign(), row=torch.maximum(beyond, inside)
            )
            counts = (
                next_samples.t != samples.stop,
                self._too_small(next_samples),
                ~accepted,
                ~error.isfinite(),
                beyond > samples.row,
            )
            left, small, refused, broken, passing = torch.stack([count.sum() for count in counts]).tolist()
        if small:
            self._give_up(next_samples)
        if broken and torch.is_grad_enabled():  # what is not finite must not come into the graph, even times zero
            h = h.where(accepted, 0)
            y1 = self._stepped(stages, samples, h)
        rows: tuple[Tensor, Tensor] | slice = slice(0, 0)
        passed = None
        if passing:
            passed = outputs.passed(samples, h, inside, beyond)
            rows = outputs.add(samples, passed, passed.values(stages, self.tableau, y, y1))
        if self.tape is not None:
            rerun = partial(_rerun, self.tableau, samples.t, h.where(accepted, 0), passed)
            self.tape.append(Segment(y, rerun, rows, None))
        last = self.clocks.slope if stages.has_last else None
        if not refused:
            return replace(next_samples, y=y1, first=last), left
        choice = column(accepted, y).bool()
        if last is not None:
            last = torch.where(choice, last, samples.first)
        return replace(next_samples, y=torch.where(choice, y1, y), first=last), left

    def _stages(self, like: Tensor) -> SlopeStages:
        if torch.is_grad_enabled():
            return TracedStages(self.tableau, self.clocks)
        return ValueStages(self.tableau, self.clocks, like)

    def _stepped(self, stages: SlopeStages, samples: Samples, h: Tensor) -> Tensor:
        self.clocks.set(samples.t, h, samples.first)
        stages.forget_slope()
        return stages.step(0.0, 1.0, samples.y)

    def _error(self, stages: SlopeStages, y: Tensor, y1: Tensor) -> Tensor:
        """(b,), each step's error in units of the tolerance."""
        scale = torch.maximum(y.abs(), y1.abs()).mul_(self.control.rtol).add_(self.control.atol)
        return rms(stages.error().view_as(y).div_(scale))

    def _too_small(self, samples: Samples) -> Tensor:
        """(b,), whether a sample is on its way with too small a step."""
        smallest = (samples.t.abs() * (SMALLEST_STEP * torch.finfo(DTYPE).eps)).clamp_min(self.control.min_step)
        return (samples.h.abs() < smallest) & (samples.t != samples.stop)

    def _give_up(self, samples: Samples) -> NoReturn:
        small = self._too_small(samples)
        which = int((small if bool(small.any()) else samples.t != samples.stop).nonzero()[0])
        number, t, h = int(samples.ids[which]), float(samples.t[which]), float(samples.h[which].abs())
        if not bool(small.any()):
            raise SolveError(
                f"max_steps = {self.control.max_steps} steps did not take sample {number} to its end: at t = {t:g} the "
                f"step size is {h:.3g}. Loosen rtol and atol, raise max_steps, or use an implicit solver if the "
                "problem is stiff"
            )
        raise SolveError(
            f"the step size of sample {number} fell to {h:.3g} at t = {t:g}: near there the field jumps, varies too "
            "fast for the tolerances, or is not finite. Loosen rtol and atol, lower min_step, or look at the field there"
        )

    def _narrowed(self, samples: Samples) -> Samples | None:
        """The samples that are on their way, unless the field needs the others too."""
        if self.separable is False:
            return None
        keep = (samples.t != samples.stop).nonzero().squeeze(1)
        if self.separable is None:
            if samples.first is None:
                samples.first = self.clocks.evaluate(samples.t, samples.y)
            self.separable = self._is_separable(samples, keep)
            if not self.separable:
                return None
        if self.tape is not None:
            self.tape.append(Segment(samples.y, partial(_selected, keep), slice(0, 0), None))
        return samples.narrowed(keep)

    def _is_separable(self, samples: Samples, keep: Tensor) -> bool:
        """Whether the field gives some samples alone the slopes that it gave them among the others."""
        assert samples.first is not None
        with torch.no_grad():
            try:
                alone = self.clocks.evaluate(samples.t[keep], samples.y[keep])
            except Exception:  # noqa: BLE001  # whatever a field does that was given data for the whole batch
                return False
            return _alike(alone, samples.first[keep])


def rms(value: Tensor) -> Tensor:
    """(b,), the root mean square over each sample's entries."""
    flat = value.reshape(len(value), -1)
    return torch.linalg.vector_norm(flat, dim=1).to(DTYPE) / math.sqrt(max(flat.shape[1], 1))


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ by rounding alone."""
    tolerance = math.sqrt(torch.finfo(one.dtype).eps)
    return bool(((one - other).abs().amax() <= tolerance * other.abs().amax()).all())


def _rerun(
    tableau: Tableau, t: Tensor, h: Tensor, passed: Passed | None, inner: Field, y: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The step from (t, y) once more: (states at its end, states at the times passed, if any)."""
    clocks = OwnClocks(inner)
    clocks.set(t, h)
    stages = TracedStages(tableau, clocks)
    y1 = stages.step(0.0, 1.0, y)
    return y1, None if passed is None else passed.values(stages, tableau, y, y1)


def _selected(keep: Tensor, inner: Field, y: Tensor) -> tuple[Tensor, None]:
    return y[keep], None


def _widened(ids: Tensor, shape: torch.Size, inner: Field, y: Tensor) -> tuple[Tensor, None]:
    return y.new_zeros(shape).index_copy(0, ids, y), None
