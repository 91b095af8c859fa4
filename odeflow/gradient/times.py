"""Gradients with respect to the times, for methods that differentiate the computation itself."""

from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor

from odeflow.state import Field


def on_fixed_clock(field: Field, t: Tensor, step_at: Sequence[float] = ()) -> Field:
    """The field seen by a clock that stands still while the times t move: it makes t a parameter of the field.

    With τ the clock's time, of the same value as t but without gradient, the map t(τ) = t₀ + (τ − τ₀) r with
    r = (t_T − t₀)/(τ_T − τ₀) takes the solver's steps along with the first and the last time, and
    dy/dτ = r f(t(τ), y). So r = 1 and t(τ) = τ in value, and autograd gives the exact derivative of the discrete
    solution, its mesh moving in proportion. Between times at which the field jumps, which do not move, each piece
    has such a map of its own.

    Args:
        field: The original field.
        t: (T,), with gradient.
        step_at: Times at which the field jumps.
    """
    knots = _knots(t.detach(), step_at)
    clock = [float(knot) for knot in knots]

    def on_clock(tau: Tensor, y: Tensor) -> Tensor:
        piece = _piece(float(tau), clock) if len(clock) > 2 else 0
        start, end = _knots(t, step_at)[piece : piece + 2]  # in here, so that every rerun has a graph of its own
        rate = (end - start) / (knots[piece + 1] - knots[piece])
        time = start + (tau - knots[piece]) * rate
        if len(clock) > 2:
            time = tau + (time - time.detach())  # not even by rounding on the other side of a jump
        return field(time.to(tau), y) * rate.to(y)

    return on_clock


def _knots(t: Tensor, step_at: Sequence[float]) -> list[Tensor]:
    """The ends of the pieces of the clock: the first time, those of jumps, the last time; each ()."""
    start, end = float(t[0].detach()), float(t[-1].detach())
    breaks = sorted({time for time in step_at if min(start, end) < time < max(start, end)}, reverse=end < start)
    return [t[0], *(t.new_tensor(time) for time in breaks), t[-1]]


def _piece(time: float, clock: Sequence[float]) -> int:
    """The number of the piece in which a time lies."""
    sign = 1.0 if clock[-1] > clock[0] else -1.0
    number = bisect_right([sign * knot for knot in clock], sign * time) - 1
    return min(max(number, 0), len(clock) - 2)


def moved(t: Tensor, step_at: Sequence[float], times: Tensor) -> Tensor:
    """Times on the fixed clock as functions of the first and the last of t: (m,), of the same values.

    Args:
        t: (T,), with gradient.
        step_at: Times at which the field jumps.
        times: (m,), between the first and the last.
    """
    ends = torch.stack(_knots(t, step_at)).to(times)
    clock = ends.detach()
    pieces = torch.tensor([_piece(time, clock.tolist()) for time in times.tolist()], dtype=torch.long)
    start, end = ends[pieces], ends[pieces + 1]
    place = (times - clock[pieces]) / (clock[pieces + 1] - clock[pieces])
    return times + ((start - start.detach()) * (1 - place) + (end - end.detach()) * place)


def move_rows(field: Field, t: Tensor, y: Tensor, step_at: Sequence[float] = ()) -> Tensor:
    """Lets the inner rows of a solution follow their own times, to which the fixed clock has tied them in proportion.

    y(tᵢ) = y(t(τᵢ)) + f(tᵢ, yᵢ) (tᵢ − t(τᵢ)), where the bracket is zero but has a gradient.

    Args:
        field: The original field.
        t: (T,), with gradient.
        y: (T, *state), or fewer if the solve ended before, solved on the fixed clock.
        step_at: Times at which the field jumps.

    Returns:
        The same values.
    """
    count = min(len(y), len(t) - 1)
    if count < 2:
        return y
    clock = t.detach()[1:count]
    shift = (t[1:count] - clock) - (moved(t, step_at, clock) - clock)
    with torch.no_grad():
        slopes = torch.stack([field(time.to(row), row) for time, row in zip(clock, y[1:count], strict=True)])
    inner = y[1:count] + slopes * shift.to(y).reshape(-1, *(1,) * (y.dim() - 1))
    return torch.cat([y[:1], inner, y[count:]])
