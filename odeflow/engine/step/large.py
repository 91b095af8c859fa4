"""Explicit Runge–Kutta stages of large states without autograd."""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from odeflow.engine.equation.field import recorder, transformed
from odeflow.engine.equation.state import Field
from odeflow.engine.step.stages import ExplicitStages, TracedStages, ValueStages
from odeflow.engine.step.tableau import Tableau
from odeflow.engine.tape import Quadrature

LARGE = 100_000
"""Numbers of a state above which reading and writing memory takes most of the time of a sum."""


class LargeStages(TracedStages):
    """Stages of large states: sums in memory that is used again, and stage derivatives that are not copied.

    Memory that is new costs several times what a sum in it does. Tensors that the field, or anybody else, still holds
    are left alone.
    """

    room: Tensor | None = None  # for the next stage
    spare: Tensor | None = None  # for the error

    def evaluate(self, t: float, y: Tensor) -> Tensor:
        slope = super().evaluate(t, y)
        return slope.clone() if slope is y or _is_held(slope) else slope

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        y1 = super().step(t, h, y)
        self.room = None  # it is y₁
        return y1

    def _combine(self, y: Tensor, weights: Sequence[float], h: float) -> Tensor:
        if self.room is not None and (self.room.shape != y.shape or _is_held(self.room)):
            self.room = None
        self.room = total = self._sum(y, weights, h, self.room)
        return total

    def _sum(self, total: Tensor, weights: Sequence[float], h: float, out: Tensor | None) -> Tensor:
        """The sum total + h Σ w k, in the memory `out`, if there is some."""
        for weight, slope in zip(weights, self.slopes, strict=False):
            if weight:
                total = out = torch.add(total, slope, alpha=h * weight, out=out)
        return total if out is not None else total.clone()

    def error(self) -> Tensor:
        if self.tableau.fsal:
            self.last_slope()
        first, *weights = self.tableau.error_weights or (0.0,)
        fitting = self.spare is not None and self.spare.shape == self.y.shape
        self.spare = torch.mul(self.slopes[0], first, out=self.spare if fitting else None)
        number = 0
        for number, weight in enumerate(weights, start=1):
            if weight:
                self.spare.add_(self.slopes[number], alpha=weight)
        return self.spare.view(-1)

    def last_differences(self) -> Tensor | None:
        weights = self.tableau.stiffness_weights
        if weights is None:
            return None
        zero = torch.zeros_like(self.y)
        return torch.stack([self._sum(zero, row, 1.0, None).view(-1) for row in weights])


def _references(tensor: Tensor) -> int:
    return sys.getrefcount(tensor)


def _alone() -> int:
    """The number of references to a tensor that only its caller holds."""
    tensor = torch.empty(0)
    return _references(tensor)


ALONE = _alone()


def _is_held(tensor: Tensor) -> bool:
    """Whether anybody but the caller holds a tensor or its memory."""
    return sys.getrefcount(tensor) > ALONE or torch._C._storage_Use_Count(tensor.untyped_storage()._cdata) > 2  # pyright: ignore


def stages_of(tableau: Tableau, field: Field, like: Tensor, quadrature: Quadrature | None = None) -> ExplicitStages:
    """The stages of a method in the form that suits the current autograd mode, the state, or a recording."""
    if torch.is_grad_enabled() or recorder():
        return TracedStages(tableau, field)
    if like.numel() > LARGE and quadrature is None and not transformed():
        return LargeStages(tableau, field)
    return ValueStages(tableau, field, like, quadrature)
