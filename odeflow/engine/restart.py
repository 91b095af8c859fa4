"""Restart: solves that go on from another state after an event.

Each leg is a solve from one event to the next. Its initial time and state are those of the event, so that gradients of
times and events give the gradient of the whole.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from odeflow.engine.equation.state import State
from odeflow.engine.output.event import Crossings, Event, same_event_time
from odeflow.engine.output.interpolant import Interpolant
from odeflow.engine.output.legs import Legs, choose
from odeflow.engine.output.solution import Solution, SolveError, Stats
from odeflow.engine.output.termination import never_met
from odeflow.errors import StateError

Leg = Callable[..., Solution[Any]]
"""`solve` with everything but the initial state, the times, `dense` and `event`."""
MOST_RESTARTS = 1000
REST = 1e-3
"""Share of the interval that samples which have reached its end repeat while others go on."""


def restarted(leg: Leg, y0: State, t: Tensor, events: Sequence[Event], dense: bool) -> Solution[Any]:
    """The solution of a solve whose samples share their steps, and restart together.

    Args:
        leg: The solve.
        y0: The initial state.
        t: (T,), the times.
        events: The events, some of them with `then`.
        dense: Whether to compute dense output.

    Raises:
        SolveError: A leg failed, a required terminal event did not occur, or the restarts do not end.
    """
    stopping, near = _stopping(events), _near(y0, t)
    sign = (t[-1] - t[0]).detach().sign()
    start, state, rest = t[:1], y0, t[1:]
    times, rows, legs, spans = [start], [_at(y0, None)], list[Solution[Any]](), list[Tensor]()
    ended = False
    while len(rest):
        solution = _solved(leg, len(legs), state, torch.cat((start, rest)), event=stopping, dense=dense)
        legs.append(solution)
        spans.append(torch.stack((start, solution.t[-1:])))
        numbers = [number for number, each in enumerate(solution.events) if _stops(events[number]) and len(each.t)]
        met = [events[number] for number in numbers]
        ended = any(event.then is None for event in met)
        if ended or not met:
            times.append(solution.t[1:])
            rows.append(_at(solution.y, slice(1, None)))
            break
        start, state = solution.t[-1:], _at(solution.y, -1)
        for event in met:
            state = _mapped(event, start[0], state)
        before = int((sign * (start - rest) > near).sum())
        now = (sign * (rest - start)).detach() <= near
        times.append(rest[now])
        rows += _at(solution.y, slice(1, 1 + before)), *[_at(state, None)] * int(now.sum() - before)
        rest = rest[~now]
        restarting = [torch.tensor(number in numbers) for number in range(len(events))]
        stopping = [_from_zero(*each, start) for each in zip(_stopping(events), restarting, strict=True)]
    found = tuple(map(_joined, zip(*(each.events for each in legs), strict=True)))
    whole = Solution(torch.cat(times), _cat(rows), _AllStats([each.stats for each in legs]), found)
    if _requires(events) and not ended:
        raise never_met(whole, None)
    return replace(whole, interpolant=_legs(legs, spans, None, near)) if dense else whole


def each_restarted(leg: Leg, y0: State, t: Tensor, events: Sequence[Event], dense: bool) -> Solution[Any]:
    """The solution of a solve whose samples have their own steps, and restart each at its own events.

    Fields and events are called with whole batches; samples that have reached the end repeat the last bit of it.

    Args:
        leg: The solve.
        y0: The initial state.
        t: (T,) or (B, T), the times.
        events: The events, some of them with `then`.
        dense: Whether to compute dense output.

    Raises:
        SolveError: As of `restarted`.
    """
    count = len(y0[0] if isinstance(y0, tuple) else y0)
    solve = _Samples(t.expand(count, -1), y0, _near(y0, t))
    stopping, legs, spans, taken = _stopping(events), list[Solution[Any]](), list[Tensor](), list[Tensor]()
    found: list[tuple[Crossings[Any], ...]] = []
    while bool(solve.active.any()):
        solution = _solved(leg, len(legs), solve.state, solve.span(), event=stopping, dense=True)
        legs.append(solution)
        spans.append(torch.stack((solve.span()[:, 0], solution.t[:, -1])))
        taken.append(solve.active)
        found.append(tuple(_restricted(each, solve.active) for each in solution.events))
        restarting = solve.advance(solution, events)
        stopping = [_from_zero(*each, solve.start) for each in zip(_stopping(events), restarting, strict=True)]
    stats = _AllStats([each.stats for each in legs])
    rows: Any = solve.rows
    whole = Solution(solve.times(), rows, stats, tuple(map(_joined_by_sample, zip(*found, strict=True))))
    if not bool(solve.ended.any()):
        whole = replace(whole, t=t)
    if _requires(events) and not bool(solve.ended.all()):
        raise never_met(replace(whole, t=solve.times()), ~solve.ended)
    return replace(whole, interpolant=_legs(legs, spans, taken, solve.near)) if dense else whole


class _Samples:
    """The samples of a solve, each in a leg of its own.

    Args:
        t: (B, T), the times.
        y0: The initial state.
        near: Distance below which times are the same.
    """

    def __init__(self, t: Tensor, y0: State, near: float) -> None:
        self.t, self.near, self.sign = t, near, (t[:, -1] - t[:, 0]).detach().sign()
        self.start, self.state = t[:, 0], y0
        self.active = torch.ones_like(self.start, dtype=torch.bool)
        self.ended, self.final = ~self.active, t[:, -1]  # by a terminal event, and when
        self.rows = self._at_all_times(y0)

    def span(self) -> Tensor:
        """(B, 2), the first and the last time of the next leg."""
        end = self.t[:, -1]
        return torch.stack((self.start.where(self.active, end - REST * (end - self.t[:, 0]).detach()), end), 1)

    def advance(self, solution: Solution[Any], events: Sequence[Event]) -> list[Tensor]:
        """Notes the rows of a leg, and restarts the samples that one of the events asks to.

        Returns:
            For each event the samples, (B,), that it restarts.
        """
        stop, last = solution.t[:, -1], _at(solution.y, -1)
        ends = self.span()[:, 0].detach(), stop.detach()
        inside = solution(self.t.clamp(torch.minimum(*ends)[:, None], torch.maximum(*ends)[:, None]))
        self._note(self.active, ends[0], inside)
        again, after = torch.zeros_like(self.active), last
        restarting = [torch.zeros_like(again) for _ in events]
        for number, (event, met) in enumerate(zip(events, solution.events, strict=True)):
            assert met.count is not None
            here = self.active & (met.count > 0)
            if not _stops(event) or not bool(here.any()):
                continue
            if event.then is not None:
                after, again = choose(here, _mapped(event, stop, after), after), again | here
                restarting[number] = here
            else:
                self.final, self.ended = stop.where(here, self.final), self.ended | here
                self._note(here, ends[1], self._at_all_times(last))
        again &= ~self.ended
        self._note(again, ends[1], self._at_all_times(after))
        self.active = again & (self.sign * (self.t[:, -1] - stop).detach() > self.near)
        self.start, self.state = stop, choose(self.active, after, _map(Tensor.detach, last))
        return restarting

    def times(self) -> Tensor:
        """(B, T), the times, up to the end of each sample."""
        final = self.final[:, None]
        beyond = self.ended[:, None] & (self.sign[:, None] * (self.t - final).detach() >= 0)
        return torch.where(beyond, final, self.t)

    def _note(self, samples: Tensor, since: Tensor, values: State) -> None:
        """Sets the rows of samples (B,) at the times from (B,) on; those of later legs replace them."""
        ahead = self.sign[:, None] * (self.t.detach() - since[:, None]) >= -self.near
        self.rows = choose((samples[:, None] & ahead).t(), values, self.rows)

    def _at_all_times(self, y: State) -> State:
        return _map(lambda leaf: leaf.expand(self.t.shape[1], *leaf.shape), y)


def _legs(legs: Sequence[Solution[Any]], spans: Sequence[Tensor], taken: Sequence[Tensor] | None, near: float) -> Legs:
    """The dense output of all legs; spans are (2, C), by default all clocks take part in every leg."""
    starts, ends = torch.stack(list(spans), 1).detach()
    masks = torch.ones_like(starts, dtype=torch.bool) if taken is None else torch.stack(list(taken))
    return Legs(tuple(cast(Interpolant, each.interpolant) for each in legs), starts, ends, masks, near)


def _stopping(events: Sequence[Event]) -> tuple[Event, ...]:
    """The events of a leg, which ends at those that end or restart the solve."""
    return tuple(replace(event, terminal=_stops(event), required=False, then=None) for event in events)


def _from_zero(event: Event, met: Tensor, start: Tensor) -> Event:
    """The event of a leg, which is zero at its start where it has restarted the solve.

    Args:
        event: The event.
        met: () or (B,), whether it has.
        start: (1,) or (B,), the time of the start.
    """

    def fn(t: Tensor, y: Any) -> Tensor:
        begins = (t == start.detach().view(t.shape).to(t)) & met.to(t.device)
        return event.fn(t, y).masked_fill(begins, 0.0)

    return replace(event, fn=fn) if bool(met.any()) else event


def _stops(event: Event) -> bool:
    return event.terminal or event.then is not None


def _requires(events: Sequence[Event]) -> bool:
    """Whether it is an error if no event ends the solve."""
    return any(each.terminal and each.required and each.then is None for each in events)


def _solved(leg: Leg, restarts: int, y0: State, t: Tensor, **options: Any) -> Solution[Any]:
    """A leg.

    Raises:
        SolveError: It failed, or there were too many before.
    """
    advice = (
        "events may accumulate, as the bounces of a ball do: end the solve before, by its times or by a terminal "
        "event, such as a small velocity"
    )
    if restarts > MOST_RESTARTS:
        start = float(t.detach()[..., 0].amax())
        raise SolveError(f"events restarted the solve {MOST_RESTARTS:,} times by t = {start:g}; {advice}")
    try:
        return leg(y0, t, **options)
    except SolveError as error:
        if restarts:
            error.args = (f"{error.args[0]}. Events had restarted the solve {restarts:,} times; {advice}",)
        raise


def _near(y0: State, t: Tensor) -> float:
    """Distance below which times are the same."""
    return same_event_time((y0[0] if isinstance(y0, tuple) else y0).dtype, t)


def _mapped(event: Event, t: Tensor, y: State) -> State:
    """The state after an event.

    Raises:
        StateError: It has another form than the state before.
    """
    assert event.then is not None
    after = event.then(t, y)
    forms = [_form(each) for each in (y, after)]
    if forms[0] != forms[1]:
        raise StateError(f"Event(then=…) must return a state of the form that it takes, {forms[0]}; got {forms[1]}")
    return after


def _form(state: Any) -> str:
    """The shape and dtype of a state, or of each leaf of it."""
    if isinstance(state, tuple):
        return f"({', '.join(_form(leaf) for leaf in cast(tuple[Any, ...], state))})"
    return f"{tuple(state.shape)} {state.dtype}" if isinstance(state, Tensor) else type(state).__name__


def _map(function: Callable[[Tensor], Tensor], state: State) -> State:
    return tuple(function(leaf) for leaf in state) if isinstance(state, tuple) else function(state)


def _at(state: State, index: slice | int | None) -> State:
    """The rows of all leaves at an index."""
    return _map(lambda leaf: leaf[index], state)


def _cat(parts: Sequence[Any], dim: int = 0) -> Any:
    """States joined along a dimension."""
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(leaves, dim) for leaves in zip(*parts, strict=True))
    return torch.cat(list(parts), dim)


def _joined(legs: Sequence[Crossings[Any]]) -> Crossings[Any]:
    """The occurrences of an event in several legs."""
    sample = None if legs[0].sample is None else torch.cat([each.sample for each in legs if each.sample is not None])
    return Crossings(torch.cat([each.t for each in legs]), _cat([each.y for each in legs]), sample)


def _restricted(found: Crossings[Any], samples: Tensor) -> Crossings[Any]:
    """Occurrences without those of other samples."""
    assert found.count is not None
    return replace(found, t=found.t.where(samples[:, None], math.nan), count=found.count.where(samples, 0))


def _joined_by_sample(legs: Sequence[Crossings[Any]]) -> Crossings[Any]:
    """The occurrences of an event in several legs, those of each sample first."""
    t, y = torch.cat([each.t for each in legs], 1), _cat([each.y for each in legs], 1)
    count = torch.stack([each.count for each in legs if each.count is not None]).sum(0)
    order = t.isnan().to(torch.uint8).argsort(dim=1, stable=True)[:, : int(count.max())]
    there = torch.arange(order.shape[1], device=count.device) < count[:, None]

    def sorted_(leaf: Tensor) -> Tensor:
        place = order.to(leaf.device).view(*order.shape, *(1,) * (leaf.dim() - 2)).expand(-1, -1, *leaf.shape[2:])
        mask = there.to(leaf.device).view(*order.shape, *(1,) * (leaf.dim() - 2))
        return leaf.gather(1, place).where(mask, math.nan)

    return Crossings(sorted_(t), _map(sorted_, y), count=count)


class _AllStats(Stats):
    """The statistics of several legs. The backward figures are those that the legs have so far."""

    def __init__(self, legs: Sequence[Stats]) -> None:
        self.legs = tuple(legs)
        super().__init__(
            nfe_forward=sum(each.nfe_forward for each in legs),
            accepted=sum(each.accepted for each in legs),
            rejected=sum(each.rejected for each in legs),
            smallest_step=min(each.smallest_step for each in legs),
            largest_step=max(each.largest_step for each in legs),
            suggested_step=legs[0].suggested_step,
            stiffness=max((each.stiffness for each in legs if each.stiffness is not None), default=None),
            accepted_per_sample=_summed([each.accepted_per_sample for each in legs]),
            rejected_per_sample=_summed([each.rejected_per_sample for each in legs]),
        )

    @property
    def nfe_backward(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As in `Stats`."""
        return sum(each.nfe_backward for each in self.legs)

    @nfe_backward.setter
    def nfe_backward(self, value: int) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The legs count."""


def _summed(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.stack(known).sum(0) if known else None
