"""Termination: truncates a solution at its first terminal event."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from odeflow.engine.equation.state import beside
from odeflow.engine.output.event import Crossings
from odeflow.engine.output.interpolant import Interpolant
from odeflow.engine.output.location import Location
from odeflow.engine.output.mesh import by_clock
from odeflow.engine.output.solution import Solution, SolveError
from odeflow.engine.output.watch import Watch

LISTED = 8  # maximum number of samples in a message


def at_events(solution: Solution, watch: Watch) -> Solution:
    """The solution with its events, up to the first terminal one.

    With per-sample clocks, each sample ends at its own event. Its later rows repeat the time and state of that event.

    Raises:
        SolveError: A required terminal event did not occur.
    """
    dense = solution.interpolant
    assert isinstance(dense, Interpolant)
    sign = dense.steps.sign
    found = [Location.of(watch, number, dense.detach()) for number in range(len(watch.events))]
    final, by = _first_terminal(watch, found, sign)
    t_end, y_end = dense.end, by_clock(solution.y[-1:], len(sign))[0]
    crossings: list[Crossings] = []
    for number, each in enumerate(found):
        own = each.until(final, sign, watch.near)
        t = own.moving(dense)
        y = dense.at(t, own.steps)
        crossings.append(_crossings(own, t, y))
        if watch.events[number].terminal and len(t):
            t_end = t[0].where(by == number, t_end)
            y_end = by_clock(y[:1], len(sign))[0].where((by == number).to(y.device)[:, None], y_end)
    unmet = final.isinf()
    if any(event.terminal for event in watch.events) and (watch.per_sample or not bool(unmet.all())):
        solution = _ended(solution, final, sign, t_end, y_end, watch.per_sample)
        solution = replace(solution, interpolant=replace(dense, end=t_end.detach()))
    if any(event.terminal and event.required for event in watch.events) and bool(unmet.any()):
        raise never_met(replace(solution, interpolant=None), unmet if watch.per_sample else None)
    return replace(solution, events=tuple(crossings))


def _first_terminal(watch: Watch, found: Sequence[Location], sign: Tensor) -> tuple[Tensor, Tensor]:
    """(C,), the time of each clock's first terminal event, multiplied by the direction; inf if there is none.

    And (C,), the index of that event.
    """
    final, by = torch.full_like(sign, math.inf), torch.full_like(sign, len(found), dtype=torch.long)
    for number, (event, each) in enumerate(zip(watch.events, found, strict=True)):
        if event.terminal and len(each.t):
            first = (sign * each.t[0]).where(each.found[0], math.inf)
            by, final = by.masked_fill(first < final, number), final.minimum(first)
    return final, by


def _ended(solution: Solution, final: Tensor, sign: Tensor, t_end: Tensor, y_end: Tensor, per_sample: bool) -> Solution:
    """The solution truncated at the ends of its clocks.

    Args:
        solution: The solution up to the last time, or to the last requested time that was reached.
        final: (C,), the end time of each clock, multiplied by the direction.
        sign: (C,), the direction.
        t_end: (C,), the end time, with its gradient.
        y_end: (C, n), the state there.
        per_sample: Whether each sample has a clock. If so, its later rows repeat its end; otherwise the end is the last
            row.
    """
    before = (sign[:, None] * solution.t.detach().to(sign) < final[:, None]).to(solution.t.device)
    t_end, y = t_end[:, None].to(solution.t.device), by_clock(solution.y, len(sign))
    if per_sample:
        t, y = solution.t.where(before, t_end), y.where(before.t()[..., None].to(y.device), y_end)
    else:
        kept = int(before.sum())
        t, y = torch.cat((solution.t[:kept], t_end[0])), torch.cat((y[:kept], y_end[None]))
    return replace(solution, t=t, y=y.view(len(y), *solution.y.shape[1:]))


def _crossings(found: Location, t: Tensor, y: Tensor) -> Crossings:
    """The public form of located events at times (K, C) with states (K, *state)."""
    if found.watch.per_sample:
        mask = beside(found.found, y)
        crossings = Crossings(
            t.where(found.found, math.nan).t(), y.where(mask, math.nan).transpose(0, 1), count=found.found.sum(0)
        )
    else:
        each = found.watch.values[found.event].dim() > 0
        crossings = Crossings(t.squeeze(1), y, found.which.squeeze(1).to(y.device) if each else None)
    return crossings.unpacked(found.watch.unpack)


def never_met(partial: Solution, unmet: Tensor | None) -> SolveError:
    """The error for a missing terminal event: for the samples `unmet`, (B,), with per-sample clocks, or for all."""
    numbers = [] if unmet is None else unmet.nonzero().squeeze(1).tolist()
    listed = ", ".join(str(number) for number in numbers[:LISTED])
    more = f" and {len(numbers) - LISTED} more" if len(numbers) > LISTED else ""
    whose = f" by sample{'s' if len(numbers) > 1 else ''} {listed}{more}," if numbers else ""
    span = partial.t[numbers[0]] if numbers else partial.t
    error = SolveError(
        f"no terminal event was met{whose} between t = {float(span[0].detach()):g} and {float(span[-1].detach()):g}"
        f"{' in the first of these' if len(numbers) > 1 else ''}. Give a later last time, look at the event's values "
        "along the partial solution, or set required=False to take what there is"
    )
    error.partial = partial
    return error
