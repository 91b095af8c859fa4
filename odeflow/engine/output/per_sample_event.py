"""Events where each sample has steps of its own: it meets them, and ends at them, alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from odeflow.engine.equation.clock import column
from odeflow.engine.equation.state import State
from odeflow.engine.output.event import Crossings, Event, check_value, roots
from odeflow.engine.output.per_sample_interpolant import OwnInterpolant
from odeflow.engine.output.solution import Solution, SolveError
from odeflow.errors import SettingError

if TYPE_CHECKING:
    from odeflow.engine.loop.per_sample.clocks import Samples

LISTED = 8  # samples, in an error


@dataclass(frozen=True)
class _Met:
    """Changes of an event's sign that were seen.

    Attributes:
        steps: (K, B), the numbers of the kept steps in which they lie.
        t: (K, B), their times.
        found: (K, B), whether there is one: a sample's come first.
    """

    steps: Tensor
    t: Tensor
    found: Tensor

    def until(self, final: Tensor, sign: Tensor, ties: Tensor) -> "_Met":
        """Those up to some time.

        Args:
            final: (B,), that time, in the direction of the solve.
            sign: (B,), that direction.
            ties: (B,), whether those at the very time count.
        """
        ahead = sign * self.t
        found = self.found & ((ahead < final) | ((ahead == final) & ties))
        count = int(found.sum(0).max())
        return _Met(self.steps[:count], self.t[:count], found[:count])


class OwnWatch:
    """Looks for changes of sign at the ends of the samples' steps. Events always see the whole batch.

    Args:
        events: What to look for.
        unpack: Packed state ↦ state as the events take it.
    """

    t: Tensor  # (B,), of each sample's last accepted step
    y: Tensor  # (B, *state)
    begun: Tensor  # (B,), whether a sample has taken a step

    def __init__(self, events: Sequence[Event], unpack: Callable[[Tensor], State]) -> None:
        self.events, self.unpack = events, unpack
        self.values: list[Tensor] = []
        self.crossings: list[list[tuple[Tensor, Tensor]]] = []  # of each event: whose, and in which kept step

    def value(self, number: int, t: Tensor, y: Tensor) -> Tensor:
        """(B,), the values of an event at the times t, (B,), and the packed states y.

        Raises:
            SettingError: It has another shape.
        """
        t = t.to(y)
        value = self.events[number].fn(t, self.unpack(y))
        check_value(value)
        if value.shape != t.shape:
            raise SettingError(
                f"under per_sample=True an event's value must have shape (B,), here {tuple(t.shape)}: one for each "
                f"sample, of its own time and state; got {tuple(value.shape)}"
            )
        return value

    def start(self, t: Tensor, y: Tensor) -> None:
        self.t, self.y, self.begun = t.clone(), y.detach().clone(), torch.zeros_like(t, dtype=torch.bool)
        self.crossings = [[] for _ in self.events]
        self.values = self._values()

    def _values(self) -> list[Tensor]:
        with torch.no_grad():
            return [self.value(number, self.t, self.y) for number in range(len(self.events))]

    def sees(self, samples: "Samples", taken: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        ids = samples.ids[taken]
        self.t = self.t.index_copy(0, ids, samples.t[taken])  # new ones: an event's value may be a part of the state
        self.y = self.y.index_copy(0, ids, samples.y[taken])
        before, self.values = self.values, self._values()
        moved = torch.zeros_like(self.begun).index_fill(0, ids, True)
        kept, stopped = torch.zeros_like(moved), torch.zeros_like(moved)
        for event, seen, old, new in zip(self.events, self.crossings, before, self.values, strict=True):
            crosses = (old.sign() * new.sign() <= 0) & (old != 0) & moved
            crosses &= self.begun | (old.abs() > math.sqrt(torch.finfo(new.dtype).eps) * new.abs())
            if event.direction:
                crosses &= (new - old) * event.direction > 0
            whose = crosses.nonzero().squeeze(1)
            if len(whose):
                seen.append((whose, number[whose]))
                kept |= crosses
                stopped |= crosses & event.terminal
        self.begun |= moved
        return kept[samples.ids], stopped[samples.ids]

    def ended(self, solution: Solution) -> Solution:
        """The solution with what was found at its events, of each sample up to its first terminal one.

        From there on a sample's rows hold the time and the state of that event.

        Raises:
            SolveError: A sample did not meet a terminal event, and one is required.
        """
        dense, y = solution.interpolant, solution.y
        assert isinstance(dense, OwnInterpolant)
        sign = (dense.end - dense.mesh.first).sign()
        met = [self._met(number, dense.detach()) for number in range(len(self.events))]
        final, by = self._final(met, sign)
        t_end, y_end, crossings = dense.end, y[-1], list[Crossings]()
        for number, each in enumerate(met):
            own = each.until(final, sign, number <= by)
            t = self._times(number, own, dense)
            states = dense.at(t, own.steps)
            crossings.append(_padded(t, states, own.found).unpacked(self.unpack))
            if self.events[number].terminal and len(t):
                t_end = t[0].where(by == number, t_end)
                y_end = states[0].where(column(by == number, y_end).bool(), y_end)
        if any(event.terminal for event in self.events):
            times = solution.t.expand(len(final), -1)
            beyond = sign[:, None] * times.detach().to(sign) >= final[:, None]
            t = t_end[:, None].to(times.device).where(beyond.to(times.device), times)
            y = y_end.where(beyond.t().reshape(*y.shape[:2], *(1,) * (y.dim() - 2)), y)
            solution = replace(solution, t=t, y=y, interpolant=dense.until(t_end.detach()))
        unmet = final.isinf()
        if any(event.terminal and event.required for event in self.events) and bool(unmet.any()):
            raise _never_met(replace(solution, interpolant=None), unmet)
        return replace(solution, events=tuple(crossings))

    def _met(self, number: int, dense: OwnInterpolant) -> _Met:
        """All changes of an event's sign that were seen, located on the polynomials of their steps."""
        count, seen = torch.zeros_like(dense.mesh.kept), self.crossings[number]
        for whose, _ in seen:
            count[whose] += 1
        steps = count.new_zeros(int(count.max()), len(count))
        found = torch.arange(len(steps), device=count.device)[:, None] < count
        count.zero_()
        for whose, step in seen:
            steps[count[whose], whose] = step
            count[whose] += 1
        samples = torch.arange(len(count), device=count.device)
        start, end = dense.starts[steps, samples], dense.ends[steps, samples]
        with torch.no_grad():
            place = roots(lambda place: self._along(number, start + place * (end - start), steps, dense), start)
        return _Met(steps, start + place * (end - start), found)

    def _along(self, number: int, t: Tensor, steps: Tensor, dense: OwnInterpolant) -> Tensor:
        """(K, B), an event's values at the times t, (K, B), of the solution."""
        if not len(t):
            return t
        states = dense.at(t, steps)
        return torch.stack([self.value(number, *each) for each in zip(t, states, strict=True)]).to(t)

    def _final(self, met: Sequence[_Met], sign: Tensor) -> tuple[Tensor, Tensor]:
        """(B,), when each sample's first terminal event is, in the direction of the solve; inf if there is none.

        And (B,), the number of that event.
        """
        final, by = torch.full_like(sign, math.inf), torch.full_like(sign, len(met), dtype=torch.long)
        for number, (event, each) in enumerate(zip(self.events, met, strict=True)):
            if event.terminal and len(each.t):
                first = (sign * each.t[0]).where(each.found[0], math.inf)
                by, final = by.masked_fill(first < final, number), final.minimum(first)
        return final, by

    def _times(self, number: int, met: _Met, dense: OwnInterpolant) -> Tensor:
        """(K, B), the times with their gradients, by the implicit function theorem as in `Watch.times`."""
        if not (torch.is_grad_enabled() and len(met.t)):
            return met.t
        moving = self._along(number, met.t, met.steps, dense)
        if not moving.requires_grad:
            return met.t
        clock = met.t.clone().requires_grad_()
        (rate,) = torch.autograd.grad(self._along(number, clock, met.steps, dense.detach()).sum(), clock)
        return met.t - (moving - moving.detach()) / rate.where(met.found, 1)


def _padded(t: Tensor, y: Tensor, found: Tensor) -> Crossings:
    """Crossings from times (K, B) and states (K, B, *state), nan where there was none."""
    mask = found.view(*found.shape, *(1,) * (y.dim() - 2))
    return Crossings(t.where(found, math.nan).t(), y.where(mask, math.nan).transpose(0, 1), count=found.sum(0))


def _never_met(partial: Solution, unmet: Tensor) -> SolveError:
    """The error of samples, (B,), that did not meet a terminal event."""
    numbers = unmet.nonzero().squeeze(1).tolist()
    listed = ", ".join(str(number) for number in numbers[:LISTED])
    more = f" and {len(numbers) - LISTED} more" if len(numbers) > LISTED else ""
    span = partial.t[numbers[0]].detach()
    error = SolveError(
        f"no terminal event was met by {'samples' if len(numbers) > 1 else 'sample'} {listed}{more}, between "
        f"t = {float(span[0]):g} and {float(span[-1]):g}{' in the first of these' if len(numbers) > 1 else ''}. Give a "
        "later last time, look at the event's values along the partial solution, or set required=False to take what "
        "there is"
    )
    error.partial = partial
    return error
