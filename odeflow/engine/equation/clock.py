"""Times and step sizes: their rounding, arithmetic with one of them or one per sample, and per-sample time scales."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.equation.state import Field, beside, check_shape
from odeflow.errors import StateError

DTYPE = torch.float64  # of times and step sizes
SAME_TIME = 2  # tolerance for a step's end to hit a time, in spacings of floating-point numbers
SAME_STEP = 1e-6  # a step whose end is within this fraction of its size from a time ends there

Number = float | Tensor
"""A time or a step size: a float if all samples share it, otherwise (b,), one per sample."""
Truth = bool | Tensor
"""A decision about a step: a bool if all samples share their steps, otherwise (b,), one per sample."""
Window = tuple[Any, Any]
"""The times between which all stages of a step evaluate the field, two `Number`s."""


def same_step(h: float, t: float) -> float:
    """The largest difference of steps of size h near t that is due to rounding."""
    return max(SAME_STEP * abs(h), 4 * math.ulp(t))


def column(values: Tensor, y: Tensor) -> Tensor:
    """Values over y's leading dimensions, such as (b,), of its dtype and broadcastable with it."""
    return beside(values.to(y), y)


@dataclass(frozen=True)
class Arithmetic:
    """What floats and tensors do not share by operators, so that a formula can be written once for both.

    Attributes:
        minimum: (x, y) ↦ the smaller one. Only y may be a constant.
        maximum: (x, y) ↦ the larger one. Only y may be a constant.
        where: (condition, x, y) ↦ x where the condition holds, otherwise y.
        sign: x ↦ its sign.
        spacing: t ↦ the spacing of floating-point numbers near t.
        moved: (y, slope, h) ↦ the state y + h·slope.
    """

    minimum: Callable[[Any, Any], Any]
    maximum: Callable[[Any, Any], Any]
    where: Callable[[Any, Any, Any], Any]
    sign: Callable[[Any], Any]
    spacing: Callable[[Any], Any]
    moved: Callable[[Tensor, Tensor, Any], Tensor]


FLOATS = Arithmetic(
    minimum=min,
    maximum=max,
    where=lambda condition, x, y: x if condition else y,
    sign=lambda x: math.copysign(1.0, x),
    spacing=math.ulp,
    moved=lambda y, slope, h: y.add(slope, alpha=h),
)
TENSORS = Arithmetic(
    minimum=lambda x, y: torch.clamp(x, max=y),
    maximum=lambda x, y: torch.clamp(x, min=y),
    where=torch.where,
    sign=torch.sign,
    spacing=lambda t: t.abs() * torch.finfo(DTYPE).eps,
    moved=lambda y, slope, h: y + slope * column(h, y),
)


def arithmetic(number: Number) -> Arithmetic:
    """That of a float, or of a tensor."""
    return TENSORS if isinstance(number, Tensor) else FLOATS


@dataclass(frozen=True)
class Rescaled:
    """A field in the rescaled time τ, from 0 to 1 in each sample's step: dy/dτ = h f(t + τh, y).

    Per-sample steps thus become one common step of size 1.

    Attributes:
        field: (t of shape (b,), y of shape (b, *state)) ↦ dy/dt.
        t: (b,), the start of each sample's step.
        h: (b,), its size; a sample with size 0 does not move.
        window: The times between which the field is evaluated, if it has discontinuities.
    """

    field: Field
    t: Tensor
    h: Tensor
    window: Window | None = None

    def __call__(self, tau: Tensor, y: Tensor) -> Tensor:
        return self.slope(self.t + tau * self.h, y) * column(self.h, y)

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        """(b, *state), dy/dt at per-sample times, (b,).

        Raises:
            StateError: The shape of the field's value differs from that of y.
        """
        t = t.to(y)
        if self.window is not None:  # a derivative with respect to time is that of the side
            t = t.detach().clamp(*self.window) + (t - t.detach())
        try:
            slope = self.field(t, y)
        except (RuntimeError, ValueError, StateError) as problem:
            problem.add_note(
                "Under per_sample=True the field is called with one time for each sample: "
                f"t of shape {tuple(t.shape)}, y of shape {tuple(y.shape)}."
            )
            raise
        if slope.shape != y.shape:
            check_shape(slope, y.shape, f", called with t of shape {tuple(t.shape)},")
        return slope
