"""Per-sample stepping: each sample of a batch has its own clock, its own step size, and its own accepted steps."""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor

from odeflow.clocks import DTYPE, Outputs, OwnClocks, Passed, Samples, column
from odeflow.controller import LARGEST_GROWTH, LARGEST_SHRINKAGE, SAFETY
from odeflow.errors import SolveError, StateError
from odeflow.solver import Segment, Solution, Stats, Tape
from odeflow.stages import TracedStages, ValueStages
from odeflow.state import Field
from odeflow.stepping import SMALLEST_STEP, ErrorControl
from odeflow.tableau import Tableau

NARROW_AT = 0.75  # finished samples are left out once no more than this part of those in the batch is on its way


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
        traced: Whether autograd shall see the solve.
        separable: Whether the field gives samples alone the slopes that it gives them in the batch; None before this
            was tried.
    """

    tableau: Tableau
    control: ErrorControl
    clocks: OwnClocks
    tape: Tape | None
    traced: bool = field(default_factory=torch.is_grad_enabled, init=False)
    separable: bool | None = field(default=None, init=False)

    def solve(self, y0: Tensor, t: Tensor) -> Solution:
        """The solution at the times t, (T,) or (B, T), by the contract of `Solver.integrate`."""
        samples, outputs = self._started(y0, t), Outputs(t, y0)
        zeros = torch.zeros(len(y0), dtype=torch.long, device=y0.device)
        bound = samples.t.new_zeros(())
        tally = Tally(zeros, zeros.clone(), bound + math.inf, bound)
        stages = ValueStages(self.tableau, self.clocks, y0)
        left, rounds = len(y0), 0
        while left:
            if left <= NARROW_AT * len(samples.ids) and (narrower := self._narrowed(samples)) is not None:
                samples, stages = narrower, ValueStages(self.tableau, self.clocks, narrower.y)
            if rounds >= self.control.max_steps:
                self._give_up(samples)
            rounds += 1
            samples, left = self._step(samples, stages, outputs, tally)
        if self.tape is not None and len(samples.ids) < len(y0):
            widen = partial(_widened, samples.ids, y0.shape)
            self.tape.append(Segment(samples.y, widen, slice(0, 0), None))
        return Solution(t, outputs.solution(), tally.stats(self.clocks.evaluations))

    def _started(self, y: Tensor, t: Tensor) -> Samples:
        """All samples at their first times, with first steps chosen as by `ErrorControl.start`."""
        if y.dim() == 0 or not len(y):
            raise StateError(f"per_sample=True needs a batch of states, (B, …) with B > 0; got shape {tuple(y.shape)}")
        times = t.to(y.device, DTYPE).expand(len(y), -1)
        start, stop = times[:, 0].contiguous(), times[:, -1].contiguous()
        self._check_times_are_apart(y, start, stop)
        control, order = self.control, self.tableau.order
        with torch.no_grad():
            first = self.clocks.evaluate(start, y)
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

    def _step(self, samples: Samples, stages: ValueStages, outputs: Outputs, tally: Tally) -> tuple[Samples, int]:
        """One attempt of every sample: (the samples after it, how many are on their way yet).

        It is made without autograd. With it the accepted steps are then taken once more, so that a rejected one, which
        may have left the field's domain, does not come into the graph, where zero times nan is nan.
        """
        with torch.no_grad():
            if samples.first is None:
                samples.first = self.clocks.evaluate(samples.t, samples.y)
            end, h = samples.step()
            self.clocks.set(samples.t, h, samples.first)
            stages.forget_slope()
            y1 = stages.step(0.0, 1.0, samples.y)
            error = self._error(stages, samples.y, y1)
            accepted = error <= 1
            factor = SAFETY * error.clamp_min(1e-30).pow(self.control.controller.exponent)
            factor = factor.clamp(LARGEST_SHRINKAGE, LARGEST_GROWTH).nan_to_num(LARGEST_SHRINKAGE)
            size = (h.abs() * factor).clamp_max(self.control.max_step)
            moving = samples.t != samples.stop
            tally.add(samples, h, accepted & moving, ~accepted & moving)
            inside, beyond = (row.where(accepted, samples.row) for row in outputs.count(samples, end))
            inside, beyond = inside.maximum(samples.row), beyond.maximum(samples.row)
            after = replace(samples, t=end.where(accepted, samples.t), h=size * h.sign(), row=beyond)
            counts = after.t != after.stop, self._too_small(after), ~accepted, beyond > samples.row
            left, small, refused, passing = torch.stack([count.sum() for count in counts]).tolist()
            if small:
                self._give_up(after)
            passed = outputs.passed(samples, h, inside, beyond) if passing else None
            rerun = partial(_rerun, self.tableau, samples.t, h.where(accepted, 0), passed)
            values = None
            if not self.traced:
                values = None if passed is None else passed.values(stages, self.tableau, samples.y, y1)
            last = self.clocks.slope if stages.has_last else None
            if refused:
                choice = column(accepted, y1).bool()
                y1 = torch.where(choice, y1, samples.y)
                last = None if last is None else torch.where(choice, last, samples.first)
        if self.traced:
            y1, values = rerun(self.clocks.evaluate, samples.y)
        rows = slice(0, 0) if passed is None or values is None else outputs.add(samples, passed, values)
        if self.tape is not None:
            self.tape.append(Segment(samples.y, rerun, rows, None))
        return replace(after, y=y1, first=last), left

    def _error(self, stages: ValueStages, y: Tensor, y1: Tensor) -> Tensor:
        """(b,), each step's error in units of the tolerance."""
        scale = torch.maximum(y.abs(), y1.abs()).mul_(self.control.rtol).add_(self.control.atol)
        return rms(stages.error().view_as(y).div_(scale))

    def _too_small(self, samples: Samples) -> Tensor:
        """(b,), whether a sample is on its way with too small a step."""
        numbers = torch.finfo(DTYPE)
        smallest = (samples.t.abs() * (SMALLEST_STEP * numbers.eps)).clamp_min(max(self.control.min_step, numbers.tiny))
        return (samples.h.abs() < smallest) & (samples.t != samples.stop)

    def _give_up(self, samples: Samples) -> NoReturn:
        small = self._too_small(samples)
        which = int((small if bool(small.any()) else samples.t != samples.stop).nonzero()[0])
        number, t, h = int(samples.ids[which]), float(samples.t[which]), float(samples.h[which].abs())
        if not bool(small.any()):
            raise SolveError(
                f"max_steps = {self.control.max_steps} steps did not take sample {number} to its end: at t = {t:g} the "
                f"step size is {h:.3g}. Loosen rtol and atol, raise max_steps, or, if the problem is stiff, use an "
                "implicit solver such as Kvaerno5"
            )
        raise SolveError(
            f"the step size of sample {number} fell to {h:.3g} at t = {t:g}: near there the field jumps, varies "
            "too fast for the tolerances, or is not finite. Loosen rtol and atol, lower min_step, or look at the field "
            "there"
        )

    def _narrowed(self, samples: Samples) -> Samples | None:
        """The samples that are on their way, unless the field needs the others too."""
        if self.separable is False:
            return None
        keep = (samples.t != samples.stop).nonzero().squeeze(1)
        if self.separable is None:
            self.separable = self._is_separable(samples, keep)
            if not self.separable:
                return None
        if self.tape is not None:
            self.tape.append(Segment(samples.y, partial(_selected, keep), slice(0, 0), None))
        return samples.narrowed(keep)

    def _is_separable(self, samples: Samples, keep: Tensor) -> bool:
        """Whether the field gives some samples alone the slopes that it gave them among the others."""
        with torch.no_grad():
            if samples.first is None:
                samples.first = self.clocks.evaluate(samples.t, samples.y)
            try:
                alone = self.clocks.evaluate(samples.t[keep], samples.y[keep])
            except Exception:  # whatever a field does that was given data for the whole batch
                return False
            return _alike(alone, samples.first[keep])


def rms(value: Tensor) -> Tensor:
    """(b,), the root mean square over each sample's entries."""
    flat = value.reshape(len(value), -1)
    return torch.linalg.vector_norm(flat, dim=1).to(DTYPE) / math.sqrt(max(flat.shape[1], 1))


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ by rounding alone."""
    tolerance = math.sqrt(torch.finfo(one.dtype).eps)
    return bool((one - other).abs().amax() <= tolerance * other.abs().amax())


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
