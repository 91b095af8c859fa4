"""Clocks: the times of a solve, of all samples together or of each, and what they pass on their way."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.equation.clock import DTYPE, Truth, Window
from odeflow.engine.loop.control import Place
from odeflow.engine.output.event import Event
from odeflow.engine.output.solution import Stats
from odeflow.engine.step.per_sample import Points
from odeflow.engine.step.stages import Stages

SAME_TIME = 2  # tolerance for a step's end to hit a time, in spacings of floating-point numbers
NARROW_AT = 0.75  # fraction of unfinished samples at which the finished ones are removed from the batch

Index = slice | list[int] | tuple[Tensor, Tensor]
"""Of rows of the solution; of (rows, samples) with per-sample clocks."""


@dataclass(frozen=True)
class Rows:
    """The rows of the solution that lie in a step.

    Attributes:
        points: The points θ in the interior of the step that are rows, or at the nodes of a kept step.
        index: Where the rows that `values` returns are in the solution.
        end: The row of the step's end, if any and common to all samples.
        ending: (k,), the samples whose step ends at an output time, with per-sample clocks.
    """

    points: tuple[float, ...] | Points
    index: Index
    end: int | None = None
    ending: Tensor | None = None

    def values(self, stages: Stages, y1: Tensor) -> Tensor | None:
        """(m, *state), the states at the rows, after a step to y₁; None if there are none."""
        if self.ending is None:
            return stages.dense(self.points) if self.points else None
        ends = y1[self.ending]
        return torch.cat((stages.dense(self.points), ends)) if len(self.points) else ends


NOTHING = Rows((), slice(0, 0))


class Clock:
    """A clock for all samples, whose times are floats: tensors would make steps of small states much slower.

    The loop, the step size control and the recorder are the same for it and for `SampleClocks`.

    Args:
        t: (T,), the output times, or a list of them.
        like: A state.
        breaks: Times at which the field is discontinuous.
        jumps: Whether the state jumps at the output times.
        outputs: Whether steps end at them all the same.

    Attributes:
        t: The current time.
        last: The last time.
        stop: The latest end of the next step.
        start: The start of the last step.
        h: The size of the last step, 0 if it was rejected.
        taken: Whether the last step was accepted.
        window: The times between which the field is evaluated until `stop`, if it is discontinuous at one of them.
        running: Whether the last time is ahead.
        stuck: Whether the step size is too small.
        crossed: Whether the last step ended at a discontinuity.
        jump: The output time that was reached, if the state jumps there.
        sparse: Whether finished samples should be left out.
        row: The next output time.
    """

    per_sample = sparse = False
    taken = True

    def __init__(
        self, t: Tensor | Sequence[float], like: Tensor, breaks: Collection[float], jumps: bool, outputs: bool
    ) -> None:
        times = self.times = t.tolist() if isinstance(t, Tensor) else list(t)
        self.dtype, self.tolerance = like.dtype, same_time(times)
        self.t, self.last, self.row = times[0], times[-1], 1
        self.sign = math.copysign(1.0, self.last - self.t)
        self.breaks = {time for time in breaks if min(times) <= time <= max(times)}
        self.jumps = {time: number for number, time in enumerate(times) if number} if jumps else {}
        self.stops = sorted(
            {*self.jumps, *self.breaks, *(times if outputs else times[-1:])} - {self.t}, reverse=self.sign > 0
        )
        self.kept: list[tuple[float, float]] = []  # (start, end)
        self.count, self.stiffness, self.noted = Stats(), 0.0, 0
        self.ended = self.crossed = False
        self._look_ahead()

    def _look_ahead(self) -> None:
        self.stop = self.stops.pop()
        self.window = _window(self.t, self.stop, self.breaks, self.dtype)

    def move(self, end: float, accepted: Any, next_size: Any) -> bool:
        """Moves to the end of an accepted step. Whether it was accepted; with several clocks, any may have been."""
        if not accepted:
            self.count.rejected += 1
            return False
        self.start, self.h, self.t = self.t, end - self.t, end
        self.count.count_step(abs(self.h))
        self.count.suggested_step = self.count.suggested_step or next_size
        return True

    def read(self, underflows: Any, kept: Truth = False) -> None:
        """Updates the attributes, with a single read from the device."""
        self.running = self.t != self.last and not self.ended
        self.stuck = underflows and self.running
        self.crossed, self.jump = False, None
        if self.t == self.stop:
            self.crossed, self.jump = self.t in self.breaks, self.jumps.get(self.t)
            if self.running:
                self._look_ahead()

    def rows(self, nodes: tuple[float, ...], kept: Truth) -> Rows:
        """The rows in the last step: those of output times, and those of the nodes if the step is kept."""
        times, first, t = self.times, self.row, self.t
        if not kept and (first == len(times) or self.sign * (times[first] - t) > self.tolerance):
            return NOTHING
        places: list[float] = []
        while self.row < len(times) and self.sign * (t - times[self.row]) > self.tolerance:
            places.append((times[self.row] - self.start) / self.h)
            self.row += 1
        index, end = slice(first, self.row), None
        if kept:
            start = len(times) + len(self.kept) * len(nodes)
            self.kept.append((self.start, t))
            index = [*range(first, self.row), *range(start, start + len(nodes))]
            places += nodes
        if self.row < len(times) and abs(t - times[self.row]) <= self.tolerance:
            end = self.row
            self.row += 1
        return Rows(tuple(places), index, end)

    def whole(self, y: Tensor) -> tuple[Tensor, Tensor, int, bool]:
        """(times (C,), states of all samples, numbers of kept steps, whether the clocks moved), after a step to y."""
        return torch.tensor([self.t], dtype=DTYPE), y, len(self.kept), True

    def heed(self, seen: Sequence[tuple[Event, Tensor]]) -> bool:
        """Whether an event was seen in the last step. Terminal ones stop their clocks."""
        self.ended = any(event.terminal for event, _ in seen)
        return bool(seen)

    def note(self, stiffness: Any) -> None:
        """Notes an estimate of h|λ|."""
        if stiffness is not None:
            self.stiffness, self.noted = self.stiffness + stiffness, self.noted + 1
            self.count.stiffness = self.stiffness / self.noted

    def place(self, underflows: Truth) -> Place:
        """Where the solve failed."""
        return Place(self.t, self.count.rejected, self.count.stiffness)

    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        """The start and end times of kept steps, (S, C) each, and their numbers, (C,)."""
        starts, ends = torch.tensor(self.kept, dtype=DTYPE).view(-1, 2).split(1, dim=1)
        return starts, ends, torch.tensor([len(self.kept)])

    @property
    def reached(self) -> int:
        """Number of output times that were reached."""
        return self.row

    @property
    def blocks(self) -> int:
        """The largest number of kept steps of a clock."""
        return len(self.kept)

    def span(self) -> tuple[Tensor, Tensor]:
        """The first times, (C,), and those that were reached."""
        return torch.tensor(self.times[:1], dtype=DTYPE), torch.tensor([self.t], dtype=DTYPE)

    def cut(self, t: Tensor, rows: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Times and rows that were reached, of those at the output times t, and the last ones, with the states y."""
        times, rows = self.times[: self.row], rows[: self.row]
        if abs(self.t - times[-1]) > self.tolerance:
            times, rows = [*times, self.t], torch.cat((rows, y[None]))
        return torch.tensor(times, dtype=DTYPE), rows

    def stats(self, evaluations: int) -> Stats:
        """The solver statistics."""
        self.count.nfe_forward = evaluations
        return self.count


def same_time(times: Sequence[float]) -> float:
    """The largest difference of a step's end from one of these times that hits it."""
    gaps = (abs(second - first) for first, second in pairwise(times))
    return min(SAME_TIME * math.ulp(max(abs(times[0]), abs(times[-1]))), 0.25 * min(gaps))


def _window(start: float, stop: float, breaks: Collection[float], dtype: torch.dtype) -> Window | None:
    """The times between which the field is evaluated from `start` to `stop`: between discontinuities at the ends."""
    if start not in breaks and stop not in breaks:
        return None
    ends = torch.tensor((start, stop), dtype=dtype)
    inner = torch.nextafter(ends, ends.flip(0)).tolist()
    far = math.copysign(math.inf, stop - start)
    first, last = inner[0] if start in breaks else -far, inner[1] if stop in breaks else far
    return min(first, last), max(first, last)


class SampleClocks:
    """A clock for each sample that is still integrated: a `Clock` whose times are tensors (b,).

    Args:
        t: (T,) or (B, T), the output times.
        like: (B, *state), a state.
        breaks: Times at which the field is discontinuous.

    Attributes:
        ids: (b,), the samples.
        left: Number of samples that have not reached their last times.
    """

    per_sample, jump = True, None

    def __init__(self, t: Tensor, like: Tensor, breaks: Sequence[float]) -> None:
        times = t.to(like.device, DTYPE)
        ends = times[..., [0, -1]].expand(len(like), 2)
        self.t, self.last = ends[:, 0].contiguous(), ends[:, 1].contiguous()
        self.first, self.batch, self.reached = self.t, len(like), times.shape[-1]
        self.ids = torch.arange(len(like), device=like.device)
        self.taken = torch.zeros_like(self.ids, dtype=torch.bool)
        self.row = self.inside = self.beyond = torch.ones_like(self.ids)
        gaps, largest = times.diff().abs().amin(-1), times[..., [0, -1]].abs().amax(-1)
        self.tolerance = (SAME_TIME * torch.finfo(DTYPE).eps * largest).minimum(0.25 * gaps)
        self.sign = 1.0 if bool((times[..., -1] > times[..., 0]).all()) else -1.0
        self.times = (times * self.sign).contiguous()  # ascending
        self.breaks = Breaks(breaks, self.sign, like) if breaks else None
        self.accepted, self.rejected = torch.zeros_like(self.ids), torch.zeros_like(self.ids)
        self.smallest, self.largest = self.t.new_full((), math.inf), self.t.new_zeros(())
        self.stiffness: Tensor | None = None  # (2, B), sum and number of the estimates of h|λ|
        self.now, self.y = self.t, like  # (B,) and (B, *state), where events are evaluated
        self.count = torch.zeros_like(self.ids)  # (B,), of kept steps
        self.kept: list[tuple[Tensor, ...]] = []  # (number, sample, start, end), (c,) each
        self.separable: bool | None = None  # whether the field is the same on a subset of the batch
        self.left_out: list[tuple[Tensor, ...]] = []  # (ids, t, row, y) of finished samples
        self.stop, self.window, self.crossed, self.passing = self.last, None, False, False
        self._look_ahead()

    def _look_ahead(self) -> None:
        if self.breaks is not None:
            jump, self.window = self.breaks.ahead(self.t)
            self.stop = torch.where(self.breaks.sign * (self.last - jump) > 0, jump, self.last)

    @property
    def moving(self) -> Tensor:
        """(b,), whether a sample has not reached its last time."""
        return self.t != self.last

    def move(self, end: Tensor, accepted: Any, next_size: Any) -> bool:
        moving, self.start, h = self.moving, self.t, end - self.t
        self.taken, size = accepted & moving, h.abs()
        self.accepted[self.ids] += self.taken
        self.rejected[self.ids] += moving & ~accepted
        self.smallest = torch.minimum(self.smallest, size.where(self.taken, math.inf).amin())
        self.largest = torch.maximum(self.largest, size.where(self.taken, 0).amax())
        self.h, self.t = h.where(self.taken, 0), end.where(self.taken, self.t)
        self._count(end)
        return True

    def _count(self, end: Tensor) -> None:
        """Sets the first row of each sample that is not inside its step, and the first not passed by it."""
        end = end * self.sign
        if self.times.dim() == 1:
            inside = torch.searchsorted(self.times, end - self.tolerance)
            beyond = torch.searchsorted(self.times, end + self.tolerance, right=True)
        else:
            times, end, tolerance = self.times[self.ids], end[:, None], self.tolerance[self.ids, None]
            inside = torch.searchsorted(times, end - tolerance).squeeze(1)
            beyond = torch.searchsorted(times, end + tolerance, right=True).squeeze(1)
        self.inside, self.beyond = (each.where(self.taken, self.row).maximum(self.row) for each in (inside, beyond))

    def read(self, underflows: Truth, kept: Truth = False) -> None:
        moving, passing = self.moving, (self.beyond > self.row) | kept
        small, at_break = moving & underflows, moving & (self.t == self.stop)
        flags = torch.stack([each.sum() for each in (moving, small, passing, at_break)]).tolist()
        self.left, self.stuck, self.passing = flags[0], flags[1] > 0, flags[2] > 0
        self.running, self.crossed = self.left > 0, flags[3] > 0
        self.sparse = self.running and self.separable is not False and self.left <= NARROW_AT * len(self.ids)
        self._look_ahead()

    def rows(self, nodes: tuple[float, ...], kept: Truth) -> Rows:
        if not self.passing:
            return NOTHING
        number, ending = self.inside - self.row, (self.beyond > self.inside).nonzero().squeeze(1)
        sample = torch.repeat_interleave(number)
        first = number.cumsum(0) - number
        row = torch.arange(len(sample), device=sample.device) + (self.row - first)[sample]
        times = self.times[row] if self.times.dim() == 1 else self.times[self.ids[sample], row]
        theta = (times * self.sign - self.start[sample]) / self.h[sample]
        if isinstance(kept, Tensor):
            whose = kept.nonzero().squeeze(1)
            ids, places = self.ids[whose], theta.new_tensor(nodes)
            start = self.reached + self.count[ids] * len(nodes)
            self.kept.append((self.count[ids], ids, self.start[whose], self.t[whose]))
            self.count[ids] += 1
            sample = torch.cat((sample, whose.repeat_interleave(len(nodes))))
            theta = torch.cat((theta, places.repeat(len(whose))))
            row = torch.cat((row, (start[:, None] + torch.arange(len(nodes), device=ids.device)).flatten()))
        index = torch.cat((row, self.inside[ending])), self.ids[torch.cat((sample, ending))]
        self.row = self.beyond
        return Rows(Points(sample, theta), index, None, ending)

    def whole(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # new tensors: an event value may be a view of them
        ids = self.ids[self.taken]
        self.now = self.now.index_copy(0, self.ids, self.t)
        self.y = self.y.index_copy(0, ids, y.detach()[self.taken])
        return self.now, self.y, self.count, torch.zeros_like(self.count, dtype=torch.bool).index_fill(0, ids, True)

    def heed(self, seen: Sequence[tuple[Event, Tensor]]) -> Tensor:
        kept = stopped = torch.zeros_like(self.taken)
        for event, crosses in seen:
            kept, stopped = kept | crosses[self.ids], stopped | (crosses[self.ids] & event.terminal)
        self.last = self.t.where(stopped, self.last)
        return kept

    def note(self, stiffness: Any) -> None:
        if stiffness is not None:
            if self.stiffness is None:
                self.stiffness = self.t.new_zeros(2, self.batch)
            told = self.taken & ~stiffness.isnan()
            self.stiffness[:, self.ids] += torch.stack((stiffness.where(told, 0), told))

    @property
    def means(self) -> Tensor | None:
        """(B,), the means of h|λ|, nan if unknown; None if the method has no estimate."""
        return None if self.stiffness is None else self.stiffness[0] / self.stiffness[1]

    def place(self, underflows: Truth) -> Place:
        small = self.moving & underflows
        index = int((small if bool(small.any()) else self.moving).nonzero()[0])
        sample = int(self.ids[index])
        stiffness = None if self.means is None else float(self.means[sample])
        return Place(float(self.t[index]), int(self.rejected[sample]), stiffness, sample, index)

    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        starts = self.first.repeat(self.blocks, 1)
        ends = starts + 1
        if self.kept:
            number, ids, start, end = map(torch.cat, zip(*self.kept, strict=True))
            starts[number, ids], ends[number, ids] = start, end
        return starts, ends, self.count

    def stats(self, evaluations: int) -> Stats:
        """The statistics, where the numbers of steps are those of the sample with the most."""
        slowest, stiffness = int((self.accepted + self.rejected).argmax()), self.means
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

    def narrow(self, keep: Tensor, y: Tensor) -> None:
        """Goes on with a subset of the samples, whose present states are y."""
        gone = (~self.moving).nonzero().squeeze(1)
        self.left_out.append((self.ids[gone], self.t[gone], self.row[gone], y[gone]))
        self.ids, self.t, self.last, self.row = self.ids[keep], self.t[keep], self.last[keep], self.row[keep]
        self.stop = self.last
        self._look_ahead()

    @property
    def blocks(self) -> int:
        return int(self.count.max())

    def span(self) -> tuple[Tensor, Tensor]:
        return self.first, self.now

    def cut(self, t: Tensor, rows: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        parts = [*self.left_out, (self.ids, self.t, self.row, y)]
        ids, now, row, last = map(torch.cat, zip(*parts, strict=True))
        order = ids.argsort()
        now, row, last = now[order], row[order], last[order]
        reached = torch.arange(len(rows), device=row.device)[:, None] < row
        t = t.to(now).where(reached.t(), now[:, None])
        return t, rows.where(reached.view(*reached.shape, *(1,) * (rows.dim() - 2)), last)


class Breaks:
    """The times at which the field is discontinuous, where the steps of all samples end.

    Args:
        times: The times, in any order.
        sign: 1 for forward integration, −1 for backward.
        like: A state; the field's times have its dtype.
    """

    def __init__(self, times: Sequence[float], sign: float, like: Tensor) -> None:
        ascending = torch.tensor(sorted({sign * time for time in times}), dtype=DTYPE, device=like.device)
        self.sign, self.ascending = sign, ascending
        far = like.new_full((1,), sign * torch.inf)
        stops = (sign * ascending).to(like.dtype)
        self.stops = torch.cat((sign * ascending, far.to(DTYPE)))
        self.before = torch.cat((torch.nextafter(stops, -far), far))
        self.after = torch.cat((-far, torch.nextafter(stops, far)))

    def ahead(self, t: Tensor) -> tuple[Tensor, Window]:
        """For steps from t, (b,): the next discontinuity, (b,), and the window of the field's evaluations."""
        number = torch.searchsorted(self.ascending, self.sign * t, right=True)
        first, last = self.after[number], self.before[number]
        return self.stops[number], (first, last) if self.sign > 0 else (last, first)


Clocks = Clock | SampleClocks
