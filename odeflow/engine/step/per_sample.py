"""Per-sample steps: the steps of any method, in each sample's own time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.equation.clock import TENSORS, Rescaled, column
from odeflow.engine.equation.state import Field, beside
from odeflow.engine.output.mesh import nodes, weights_at
from odeflow.engine.step.stages import Stages, ValueStages, roundings


@dataclass(frozen=True)
class Points:
    """Points inside the steps of samples.

    Attributes:
        sample: (m,), the samples.
        theta: (m,), the points θ in [0, 1] of their steps.
    """

    sample: Tensor
    theta: Tensor

    def __len__(self) -> int:
        return len(self.sample)


class SampleStages(Stages):
    """Steps of each sample's own size h, as one common step of size 1 in the time τ = (t − tᵢ)/hᵢ.

    Times and step sizes are tensors (b,) where other stages have floats, and decisions are masks. Attempts are made
    without autograd. If it is enabled, accepted steps are then repeated with it, those of other samples with size 0, so
    that rejected steps, which may have left the field's domain, do not enter the graph, where 0 · nan = nan.

    Args:
        inner: The stages of the method, for all samples, of which those of size 0 stay where they are.
    """

    def __init__(self, inner: Stages) -> None:
        self.inner = inner
        super().__init__(inner.order, inner.field)
        self.carries, inner.arithmetic = inner.carries, TENSORS
        self.first: Tensor | None = None  # dy/dt at the starts of the steps
        self.again: SampleStages | None = None  # the accepted step, with autograd

    @property
    def evaluations(self) -> int:
        return self.inner.evaluations

    @evaluations.setter
    def evaluations(self, count: int) -> None:
        self.inner.evaluations = count

    @property
    def degree(self) -> int:
        return self.inner.degree

    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        """(b, *state), the field at per-sample times, (b,), counted and checked."""
        self.evaluations += 1
        return Rescaled(self.field, t, t, self.window).slope(t, y)

    def add_quadrature(self, h: Tensor) -> None:
        """Nothing: equations with side results are solved with a common clock."""

    @property
    def traced(self) -> Callable[[Field], "SampleStages"]:
        return partial(_apart, self.inner.traced)

    def first_slope(self, t: Tensor, y: Tensor) -> Tensor:
        if self.first is None:
            self.first = self.evaluate(t, y)
        return self.first

    def step(self, t: Any, h: Any, y: Tensor) -> Tensor:
        self.t, self.h, self.y = t, h, y
        slope = self.first_slope(t, y)
        self.inner.field, self.inner.window = Rescaled(self.field, t, h, self.window), self.window and (0.0, math.inf)
        self.inner.restore((slope * column(h, y),))
        self.y1 = self.inner.step(0.0, 1.0, y)
        return self.y1

    def attempt(self, t: Any, h: Any, y: Tensor) -> Tensor:
        with torch.no_grad():
            return self.step(t, h, y)

    def accept(self, h: Any, y1: Tensor) -> Tensor:
        self.h = h
        if not torch.is_grad_enabled():
            return y1.where(beside(h != 0, y1), self.y)
        self.again = again = self.traced(self.field)
        again.window, again.evaluations = self.window, self.evaluations
        again.restore(self.carried)
        return again.step(self.t, h, self.y)

    def carry(self) -> tuple[Tensor, ...]:
        """dy/dt at the ends of the steps, if known: that at the start for samples that stay there."""
        moved, first = self.h != 0, self.first
        assert first is not None
        size, choice = column(self.h.where(moved, 1), first), beside(moved, first)
        return tuple((last / size).where(choice, first) for last in self.inner.carry())

    def restore(self, carried: tuple[Tensor, ...]) -> None:
        self.carried = carried if self.carries else ()
        self.first = carried[0] if carried else None

    def advance(self) -> None:
        shown, self.again = self.again or self, None
        self.evaluations = shown.evaluations
        self.restore(shown.carry() or self.carry())

    def error(self) -> Tensor:
        with torch.no_grad():
            estimate = self.inner.error().view_as(self.y)
            return (estimate / column(self.h.where(self.h != 0, 1), estimate)).reshape(-1)

    def stiffness(self) -> Tensor | None:
        """(b,), that of each sample; nan where unknown."""
        differences = self.inner.last_differences()
        if differences is None:
            return None
        of_slopes, of_stages = differences.view(2, len(self.h), -1).norm(dim=2).to(self.h)
        least = roundings(self.y) * self.inner.y.detach().view(len(self.h), -1).norm(dim=1).to(self.h)
        return of_slopes / of_stages.where(of_stages > least, torch.nan)

    def dense(self, theta: Points | Sequence[float]) -> Tensor:
        """(m, *state), the states of samples at points of their steps, by the values at the nodes of each step."""
        assert isinstance(theta, Points)
        values = (self.again or self).inner.dense(nodes(self.degree)).view(self.degree + 1, len(self.y), -1)
        weights = weights_at(theta.theta, self.degree).to(values).t()
        total = values[0][theta.sample] * weights[0, :, None]
        for value, weight in zip(values[1:], weights[1:], strict=True):
            total = torch.addcmul(total, value[theta.sample], weight[:, None])
        return total.view(len(theta), *self.y.shape[1:])

    def last_slope(self) -> Tensor:
        return self.inner.last_slope()

    def narrow(self, keep: Tensor, y: Tensor) -> None:
        """Goes on with a subset of the samples, whose states are y."""
        if isinstance(self.inner, ValueStages):
            self.inner.resize(y)
        self.first = None if self.first is None else self.first[keep]
        self.carried = tuple(value[keep] for value in self.carried)


def _apart(stages_over: Callable[[Field], Stages], field: Field) -> SampleStages:
    return SampleStages(stages_over(field))
