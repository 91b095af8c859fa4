"""Gradients with respect to the times, for methods that differentiate the computation itself."""

import torch
from torch import Tensor

from odeflow.state import Field


def on_fixed_clock(field: Field, t: Tensor) -> Field:
    """The field seen by a clock that stands still while the times t move: it makes t a parameter of the field.

    With τ the clock's time, of the same value as t but without gradient, the map t(τ) = t₀ + (τ − τ₀) r with
    r = (t_T − t₀)/(τ_T − τ₀) takes the solver's steps along with the first and the last time, and
    dy/dτ = r f(t(τ), y). So r = 1 and t(τ) = τ in value, and autograd gives the exact derivative of the discrete
    solution, its mesh moving in proportion.
    """
    clock = t.detach()

    def moved(tau: Tensor, y: Tensor) -> Tensor:
        # in here, so that every rerun has a graph of its own
        rate = (t[..., -1] - t[..., 0]) / (clock[..., -1] - clock[..., 0])
        time = t[..., 0] + (tau - clock[..., 0]) * rate
        return field(time.to(tau), y) * _beside(rate, y)

    return moved


def move_rows(field: Field, t: Tensor, y: Tensor) -> Tensor:
    """Lets the inner rows of a solution follow their own times, to which the fixed clock has tied them in proportion.

    y(tᵢ) = y(t(τᵢ)) + f(tᵢ, yᵢ) (tᵢ − t(τᵢ)), where the bracket is zero but has a gradient.

    Args:
        field: The original field.
        t: (T,) or (B, T), with gradient.
        y: (T, *state), solved on the fixed clock.

    Returns:
        (T, *state), the same values.
    """
    if t.shape[-1] == 2:
        return y
    t = t.movedim(-1, 0)
    clock = t.detach()
    proportional = t[0] + (t[-1] - t[0]) * ((clock - clock[0]) / (clock[-1] - clock[0]))
    shift = (t - t.detach()) - (proportional - proportional.detach())
    with torch.no_grad():
        slopes = torch.stack([field(time.to(row), row) for time, row in zip(clock[1:-1], y[1:-1], strict=True)])
    inner = y[1:-1] + slopes * _beside(shift[1:-1], y)
    return torch.cat([y[:1], inner, y[-1:]])


def _beside(values: Tensor, y: Tensor) -> Tensor:
    """Values of y's leading dimensions, to be multiplied with y."""
    return values.to(y).reshape(*values.shape, *(1,) * (y.dim() - values.dim()))
