"""SampleClocks: the times of a solve in which each sample has its own."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.equation.clock import DTYPE, SAME_TIME, Truth, Window
from odeflow.engine.equation.state import beside
from odeflow.engine.loop.control import Place
from odeflow.engine.loop.rows import NOTHING, Rows
from odeflow.engine.output.event import Event
from odeflow.engine.output.solution import Stats
from odeflow.engine.step.per_sample import Points

NARROW_AT = 0.75  # fraction of unfinished samples at which the finished ones are removed from the batch


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
        return t, rows.where(beside(reached, rows), last)


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
