"""Gradients with respect to the times, for discrete gradient methods."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.equation.clock import column
from odeflow.engine.equation.field import full_precision
from odeflow.engine.equation.state import Field


def on_fixed_clock(field: Field, t: Tensor, jump_ts: Sequence[float] = ()) -> Field:
    """The field in a fixed time τ, which makes the times t parameters of the field.

    τ has the value of t without its gradient. The map t(τ) = t₀ + (τ − τ₀) r with r = (t_T − t₀)/(τ_T − τ₀) moves the
    solver's steps with the first and the last time, and dy/dτ = r f(t(τ), y). In value r = 1 and t(τ) = τ, and autograd
    gives the exact derivative of the discrete solution, whose mesh moves in proportion. Discontinuities of the field do
    not move: each piece between them has its own map.

    Args:
        field: The original field.
        t: (T,), or (B, T), per-sample times, with gradient.
        jump_ts: Times at which the field is discontinuous, common to all samples.
    """
    fixed = _knots(t.detach(), jump_ts)

    def on_clock(tau: Tensor, y: Tensor) -> Tensor:
        pieces = _pieces(fixed, tau)
        first, last = _ends(fixed, pieces)
        start, end = _ends(_knots(t, jump_ts), pieces)  # here, so that every rerun has its own graph
        rate = (end - start) / (last - first)
        time = start + (tau - first) * rate
        if jump_ts:
            time = tau + (time - time.detach())  # exact, so as not to cross a discontinuity by rounding
        return field(time.to(tau), y) * column(rate, y)

    return on_clock


def _knots(t: Tensor, jump_ts: Sequence[float]) -> list[Tensor]:
    """The ends of the pieces, each () or (B,): the first time, the discontinuities, the last time.

    Discontinuities outside a sample's interval are clamped to it, so that such pieces have zero length.
    """
    if not jump_ts:
        return [t[..., 0], t[..., -1]]
    start, end = t[..., 0].double(), t[..., -1].double()
    sign = 1 if bool((end > start).all()) else -1
    jumps = torch.tensor(sorted(set(jump_ts), reverse=sign < 0), dtype=start.dtype, device=t.device)
    if t.dim() == 1:
        return [start, *jumps[(jumps - start) * (end - jumps) > 0], end]
    jumps = jumps[:, None]
    return [start, *start.where(sign * (jumps - start) <= 0, end.where(sign * (end - jumps) <= 0, jumps)), end]


def _pieces(knots: Sequence[Tensor], times: Tensor) -> Tensor:
    """The indices of the pieces of nonzero length that contain the times.

    Args:
        knots: The ends of the pieces, each () or (B,).
        times: (…), or (…, B) for per-sample clocks.
    """
    first, *inner, last = knots
    number = torch.zeros_like(times, dtype=torch.long)
    for knot in inner:
        number += ((times - knot) * (last - first) >= 0) & (knot != last)
    return number


def _ends(knots: Sequence[Tensor], pieces: Tensor) -> tuple[Tensor, Tensor]:
    """The start and end times of pieces."""
    if len(knots) == 2 or not pieces.dim():
        number = int(pieces) if len(knots) > 2 else 0
        return knots[number], knots[number + 1]
    table = torch.stack(list(knots)).to(pieces.device)
    if table.dim() == 1:
        return table[pieces], table[pieces + 1]
    samples = torch.arange(table.shape[1], device=table.device)
    return table[pieces, samples], table[pieces + 1, samples]


def moved(t: Tensor, jump_ts: Sequence[float], times: Tensor) -> Tensor:
    """Fixed times τ as differentiable functions t(τ) of the first and the last of t, with unchanged values.

    Args:
        t: (T,) or (B, T), with gradient.
        jump_ts: Times at which the field is discontinuous.
        times: (m,), or (m, B), per-sample times, between the first and the last.
    """
    knots = [knot.to(times) for knot in _knots(t, jump_ts)]
    start, end = _ends(knots, _pieces(knots, times))
    first, last = start.detach(), end.detach()
    place = (times - first) / (last - first)
    return times + ((start - first) * (1 - place) + (end - last) * place)


def move_rows(field: Field, t: Tensor, y: Tensor, jump_ts: Sequence[float] = (), traced: bool = False) -> Tensor:
    """Attaches the gradients of the inner times to the rows of a solution on the fixed clock.

    y(tᵢ) = y(t(τᵢ)) + f(tᵢ, yᵢ) (tᵢ − t(τᵢ)), where the bracket is zero but has a gradient. The field is evaluated in
    the backward pass, without a graph of all rows. With `traced` autograd instead records a step of the midpoint method
    of this size, whose first and second derivatives are those of the exact solution.

    Args:
        field: The original field.
        t: (T,) or (B, T), with gradient.
        y: (T, *state), or fewer rows if the solve ended early, solved on the fixed clock.
        jump_ts: Times at which the field jumps.
        traced: Whether autograd records the evaluations of the field.

    Returns:
        The same values.
    """
    times = t.movedim(-1, 0)
    count = min(len(y), len(times) - 1)
    if count < 2:
        return y
    inner = times[1:count]
    start, rows = moved(t, jump_ts, inner.detach()), y[1:count]
    shift = inner - start
    rows = _midpoint(field, start, shift, rows) if traced else follow(field, inner, shift, rows)
    return torch.cat([y[:1], rows, y[count:]])


def _midpoint(field: Field, t: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """(m, *state), the rows after a step of the midpoint method. Arguments as of `follow`, with h the step sizes."""
    half = column(h / 2, y) * _slopes(field, t, y)
    return y + column(h, y) * _slopes(field, t + h / 2, y + half)


def follow(field: Field, t: Tensor, shift: Tensor, y: Tensor) -> Tensor:
    """Attaches the derivative with respect to a time shift to rows: ∂y/∂shift = f(t, y).

    The field is evaluated in the backward pass, at the result, so that ∂L/∂shift can be differentiated again.

    Args:
        field: The vector field.
        t: (m,) or (m, B), the times of the rows.
        shift: (m,) or (m, B); only its gradient is used.
        y: (m, *state).

    Returns:
        The same values.
    """
    return _Follow.apply(field, t, shift, y)  # pyright: ignore[reportReturnType]


class _Follow(torch.autograd.Function):
    """The identity on y, with a gradient to the shift."""

    generate_vmap_rule = True

    @staticmethod
    def forward(field: Field, t: Tensor, shift: Tensor, y: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Field, Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.field, t, _, _ = inputs
        ctx.save_for_backward(t, output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad_y,) = grad_outputs
        t, y = ctx.saved_tensors
        if not ctx.needs_input_grad[2]:
            return None, None, None, grad_y
        slopes = _slopes(ctx.field, t, y)
        return None, None, (grad_y * slopes).reshape(*t.shape, -1).sum(-1).to(t), grad_y


def _slopes(field: Field, t: Tensor, y: Tensor) -> Tensor:
    """(m, *state), the field at the rows."""
    with full_precision(y):
        return torch.stack([field(time.to(row), row) for time, row in zip(t, y, strict=True)])
