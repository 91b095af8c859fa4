"""Clock: the times of a solve in which all samples share one, and what they pass on their way."""

import math
from collections.abc import Collection, Sequence
from operator import sub
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.equation.clock import DTYPE, SAME_TIME, Truth, Window
from odeflow.engine.loop.control import Place
from odeflow.engine.loop.rows import NOTHING, Rows
from odeflow.engine.loop.sample_clocks import SampleClocks
from odeflow.engine.output.event import Event
from odeflow.engine.output.solution import Stats


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
    gap = min(map(abs, map(sub, times[1:], times)))
    return min(SAME_TIME * math.ulp(max(abs(times[0]), abs(times[-1]))), 0.25 * gap)


def _window(start: float, stop: float, breaks: Collection[float], dtype: torch.dtype) -> Window | None:
    """The times between which the field is evaluated from `start` to `stop`: between discontinuities at the ends."""
    if start not in breaks and stop not in breaks:
        return None
    ends = torch.tensor((start, stop), dtype=dtype)
    inner = torch.nextafter(ends, ends.flip(0)).tolist()
    far = math.copysign(math.inf, stop - start)
    first, last = inner[0] if start in breaks else -far, inner[1] if stop in breaks else far
    return min(first, last), max(first, last)


Clocks = Clock | SampleClocks
