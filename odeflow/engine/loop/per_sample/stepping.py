"""Per-sample stepping: each sample of a batch has its own clock, its own step size, and its own accepted steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from odeflow.engine.equation.clock import DTYPE, column
from odeflow.engine.equation.state import Field
from odeflow.engine.loop.adaptive import ErrorControl
from odeflow.engine.loop.per_sample.clocks import Breaks, OwnClocks, Samples, Window
from odeflow.engine.loop.per_sample.control import OwnControl
from odeflow.engine.loop.per_sample.outputs import Outputs, Passed
from odeflow.engine.output.solution import Solution, SolveError, Stats
from odeflow.engine.step.stages import TracedStages, ValueStages
from odeflow.engine.step.tableau import Tableau
from odeflow.engine.tape import Observer, Segment
from odeflow.errors import StateError

NARROW_AT = 0.75  # fraction of unfinished samples at which the finished ones are removed from the batch


@dataclass
class Tally:
    """Step statistics of the samples.

    Attributes:
        accepted: (B,), accepted steps.
        rejected: (B,), rejected steps.
        smallest: (), the smallest accepted step size.
        largest: (), the largest accepted step size.
    """

    accepted: Tensor
    rejected: Tensor
    smallest: Tensor
    largest: Tensor

    def add(self, samples: Samples, h: Tensor, taken: Tensor, refused: Tensor) -> None:
        """Counts a step of each sample.

        Args:
            samples: The samples.
            h: (b,), the step sizes.
            taken: (b,), whether the step was accepted.
            refused: (b,), whether the step was rejected.
        """
        self.accepted[samples.ids] += taken
        self.rejected[samples.ids] += refused
        size = h.abs()
        self.smallest = torch.minimum(self.smallest, size.where(taken, math.inf).amin())
        self.largest = torch.maximum(self.largest, size.where(taken, 0).amax())

    def stats(self, evaluations: int, stiffness: Tensor | None) -> Stats:
        """The solver statistics. The numbers of steps are those of the sample with the most.

        Args:
            evaluations: Number of evaluations of the field.
            stiffness: (B,), the means of h|λ|, nan if unknown; None if the method has no estimate.
        """
        slowest = int((self.accepted + self.rejected).argmax())
        known = None if stiffness is None else stiffness[~stiffness.isnan()]
        return Stats(
            nfe_forward=evaluations,
            accepted=int(self.accepted[slowest]),
            rejected=int(self.rejected[slowest]),
            smallest_step=float(self.smallest),
            largest_step=float(self.largest),
            stiffness=None if known is None or not len(known) else float(known.max()),
            stiffness_per_sample=stiffness,
            accepted_per_sample=self.accepted,
            rejected_per_sample=self.rejected,
        )


class PerSample:
    """A solve with per-sample clocks and step sizes.

    All unfinished samples are stepped by common calls of the field, with t of shape (b,). Finished samples are removed
    from time to time, unless the field requires the whole batch, for example if it holds per-sample data. Autograd
    records the solve if enabled.

    Args:
        tableau: The method.
        control: The tolerances and bounds of the step size.
        field: dy/dt = field(t, y).
        y0: (B, *state).
        t: (T,) or (B, T).
        observer: Its mesh requests steps, its tape records the segments.
        jump_ts: Times at which the field is discontinuous.

    Raises:
        StateError: The state has no batch dimension, or the field does not support per-sample times.
        SolveError: A sample is not finite at its start.
    """

    def __init__(
        self,
        tableau: Tableau,
        control: ErrorControl,
        field: Field,
        y0: Tensor,
        t: Tensor,
        observer: Observer,
        jump_ts: Sequence[float],
    ) -> None:
        if y0.dim() == 0 or not len(y0):
            raise StateError(f"per_sample=True needs a batch of states, (B, …) with B > 0; got shape {tuple(y0.shape)}")
        self.tableau, self.t, self.tape, self.batch = tableau, t, observer.tape, y0.shape
        self.traced = torch.is_grad_enabled()
        self.clocks, self.control = OwnClocks(field), OwnControl(control, tableau.order)
        self.outputs = Outputs(t, y0, observer.mesh)
        self.breaks = Breaks(jump_ts, self.outputs.sign, y0) if jump_ts else None
        self.separable: bool | None = None  # whether the field is the same on a subset of the batch
        with torch.no_grad():
            self.samples = self._started(y0)
        self.stages = ValueStages(tableau, self.clocks, y0)
        self.left = len(y0)  # number of unfinished samples
        self.left_out: list[Samples] = []
        zeros, bound = torch.zeros_like(self.samples.ids), self.samples.t.new_zeros(())
        self.tally = Tally(zeros, zeros.clone(), bound + math.inf, bound)

    def _started(self, y: Tensor) -> Samples:
        """All samples at their first times."""
        times = self.t.to(y.device, DTYPE).expand(len(y), -1)
        ids, start, stop = torch.arange(len(y), device=y.device), times[:, 0].contiguous(), times[:, -1].contiguous()
        check_times_are_apart(self.clocks, y, start, stop)
        samples = Samples(ids, start, stop, stop - start, y, torch.ones_like(ids), start.new_empty(0, len(y)), None)
        window = None if self.breaks is None else self.breaks.ahead(start)[1]
        samples = self.control.start(self.clocks, samples, window)
        self.outputs.start(samples, len(self.tableau.interpolation[0]))
        return samples

    def solve(self) -> Solution:
        """The solution, by the contract of `Solver.integrate`."""
        try:
            self._go()
        except SolveError as error:
            error.partial = self._partial()
            raise
        if self.tape is not None and len(self.samples.ids) < self.batch[0]:
            widen = partial(_widened, self.samples.ids, self.batch)
            self.tape.append(Segment(self.samples.y, widen, slice(0, 0), None))
        return Solution(self.t, self.outputs.solution(), self._stats())

    def _go(self) -> None:
        """Steps until all samples are finished."""
        while self.left:
            if self.left <= NARROW_AT * len(self.samples.ids):
                self._narrow()
            if self.control.attempts >= self.control.joint.max_steps:
                self.control.give_up(self.samples)
            self._step()

    def _partial(self) -> Solution:
        """The partial solution after a failure. Rows that a sample did not reach repeat its last time and state."""
        parts, count = [*self.left_out, self.samples], self.t.shape[-1]
        order = torch.cat([part.ids for part in parts]).argsort()
        row = torch.cat([part.row for part in parts])[order]
        t_last = torch.cat([part.t for part in parts])[order]
        y_last = torch.cat([part.y for part in parts])[order]
        reached = torch.arange(count, device=row.device)[:, None] < row
        t = self.t.to(t_last).where(reached.t(), t_last[:, None])
        y = self.outputs.solution()[:count]
        y = y.where(reached.view(*y.shape[:2], *(1,) * (y.dim() - 2)), y_last)
        return Solution(t, y, self._stats())

    def _stats(self) -> Stats:
        return self.tally.stats(self.clocks.evaluations, self.control.stiffness)

    def _step(self) -> None:
        """Attempts one step of every sample, and advances the accepted ones.

        The attempt runs without autograd. If autograd is enabled, the accepted steps are then repeated, so that
        rejected ones, which may have left the domain of the field, do not enter the graph, where 0 · nan = nan.
        """
        samples, stages = self.samples, self.stages
        with torch.no_grad():
            stop, window = self._ahead()
            end, h = samples.step(stop)
            y1 = self._attempt(h, window)
            verdict = self.control.judge(samples, h, y1, stages.error().view_as(y1))
            accepted, moving = verdict.accepted, samples.moving
            self.tally.add(samples, h, accepted & moving, ~accepted & moving)
            self.control.look_at_stiffness(stages, samples, accepted & moving)
            inside, beyond = (row.where(accepted, samples.row) for row in self.outputs.count(samples, end))
            inside, beyond = inside.maximum(samples.row), beyond.maximum(samples.row)
            t = end.where(accepted, samples.t)
            after = replace(samples, t=t, y=y1, h=verdict.h, row=beyond, past=verdict.past)
            kept, passing = None, beyond > samples.row
            if self.outputs.kept is not None:
                kept, stopped = self.outputs.kept.see(after, accepted & moving)
                passing = passing | kept
                after.stop = after.stop if stopped is None else t.where(stopped, after.stop)
            counts = after.moving, self.control.too_small(after), ~accepted, passing
            self.left, small, refused, any_passing = torch.stack([count.sum() for count in counts]).tolist()
            if small:
                self.control.give_up(after)
            passed = self.outputs.passed(samples, h, inside, beyond, kept) if any_passing else None
            rerun = partial(_rerun, self.tableau, samples.t, h.where(accepted, 0), window, passed)
            values = None
            if not self.traced and passed is not None:
                values = passed.values(stages, self.tableau, samples.y, y1)
            last = self.clocks.slope if stages.has_last else None
            if refused:
                choice = column(accepted, y1).bool()
                y1 = torch.where(choice, y1, samples.y)
                last = None if last is None or samples.first is None else torch.where(choice, last, samples.first)
            if self.breaks is not None and bool(((t == stop) & after.moving).any()):
                last = None  # the field has another value on the other side
        if self.traced:
            y1, values = rerun(self.clocks.evaluate, samples.y)
        rows = slice(0, 0) if passed is None or values is None else self.outputs.add(samples, passed, values)
        if self.tape is not None:
            self.tape.append(Segment(samples.y, rerun, rows, None))
        after.y, after.first = y1, last
        self.samples = after

    def _attempt(self, h: Tensor, window: Window | None) -> Tensor:
        """(b, *state), the states after steps of sizes h, without autograd."""
        samples = self.samples
        if samples.first is None:
            samples.first = self.clocks.evaluate(samples.t, samples.y, window)
        self.clocks.set(samples.t, h, samples.first, window)
        self.stages.forget_slope()
        return self.stages.step(0.0, 1.0, samples.y)

    def _ahead(self) -> tuple[Tensor, Window | None]:
        """(b,), the latest ends of the next steps, and the window of the field's evaluations."""
        stop = self.samples.stop
        if self.breaks is None:
            return stop, None
        jump, window = self.breaks.ahead(self.samples.t)
        return torch.where(self.breaks.sign * (stop - jump) > 0, jump, stop), window

    def _narrow(self) -> None:
        """Removes finished samples, unless the field requires the whole batch."""
        if self.separable is False:
            return
        moving = self.samples.moving
        keep = moving.nonzero().squeeze(1)
        if self.separable is None:
            with torch.no_grad():
                self.separable = self._is_separable(keep)
            if not self.separable:
                return
        if self.tape is not None:
            self.tape.append(Segment(self.samples.y, partial(_selected, keep), slice(0, 0), None))
        self.left_out.append(self.samples.narrowed((~moving).nonzero().squeeze(1)))
        self.samples = self.samples.narrowed(keep)
        self.stages = ValueStages(self.tableau, self.clocks, self.samples.y)

    def _is_separable(self, keep: Tensor) -> bool:
        """Whether the field has the same values on a subset of the samples as in the whole batch."""
        samples, window = self.samples, self._ahead()[1]
        if samples.first is None:
            samples.first = self.clocks.evaluate(samples.t, samples.y, window)
        window = None if window is None else (window[0][keep], window[1][keep])
        try:
            alone = self.clocks.evaluate(samples.t[keep], samples.y[keep], window)
        except Exception:  # any error of a field that holds data for the whole batch
            return False
        return _alike(alone, samples.first[keep])


def check_times_are_apart(clocks: OwnClocks, y: Tensor, start: Tensor, stop: Tensor) -> None:
    """Rejects a field that broadcasts t, of shape (B,), against the last dimension of y instead of the first.

    This goes unnoticed only if the last dimension has size B too, so it is checked only then.

    Raises:
        StateError: The field broadcasts t against the last dimension.
    """
    if y.dim() < 2 or len(y) == 1 or y.shape[-1] != len(y):
        return
    times = start + (stop - start) * torch.linspace(0, 1, len(y), dtype=DTYPE, device=y.device)
    apart = clocks.evaluate(times, y)[-1]
    alike = clocks.evaluate(times[-1].expand(len(y)), y)[-1]
    if bool(apart.isfinite().all()) and not _alike(apart, alike):
        raise StateError(
            f"the field takes the times of the samples, t of shape {tuple(start.shape)}, for times of the entries "
            f"of the last dimension of y, {tuple(y.shape)}. Under per_sample=True write t.view(-1, 1) where t "
            "meets y, with as many dimensions as y has"
        )


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal up to rounding."""
    tolerance = math.sqrt(torch.finfo(one.dtype).eps)
    return not one.numel() or bool((one - other).abs().amax() <= tolerance * other.abs().amax())


def _rerun(
    tableau: Tableau, t: Tensor, h: Tensor, window: Window | None, passed: Passed | None, inner: Field, y: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Reruns the step from (t, y): (states at its end, states of the rows passed, if any)."""
    clocks = OwnClocks(inner)
    clocks.set(t, h, window=window)
    stages = TracedStages(tableau, clocks)
    y1 = stages.step(0.0, 1.0, y)
    return y1, None if passed is None else passed.values(stages, tableau, y, y1)


def _selected(keep: Tensor, inner: Field, y: Tensor) -> tuple[Tensor, None]:
    return y[keep], None


def _widened(ids: Tensor, shape: torch.Size, inner: Field, y: Tensor) -> tuple[Tensor, None]:
    return y.new_zeros(shape).index_copy(0, ids, y), None
