"""Dense output: the solution at any time in its interval."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor

from odeflow.engine.equation.field import full_precision, uncompiled
from odeflow.engine.equation.state import State
from odeflow.engine.output.mesh import Steps, by_clock, weights_at
from odeflow.errors import SettingError

View = Callable[[Any], State]
"""(m, *state) ↦ its public view, with the same leading dimension."""


@dataclass(frozen=True, eq=False)
class DenseOutput(ABC):
    """The solution at any time in its interval.

    Attributes:
        views: Public views, applied in order.
    """

    views: tuple[View, ...] = field(default=(), kw_only=True)

    @abstractmethod
    def states(self, t: Tensor) -> State:
        """(m, *state), the states at the times t, (m,), or (B, m) for per-sample clocks, before the views.

        Raises:
            SettingError: A time lies outside the interval, or t has the wrong shape.
        """

    @uncompiled
    def __call__(self, t: Tensor | float) -> State:
        """The state at the times t.

        Args:
            t: (), or as in `states`; inside the interval; may require a gradient.

        Returns:
            (*state) or (m, *state).

        Raises:
            SettingError: A time lies outside.
        """
        t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        t = t if t.is_floating_point() else t.double()
        state = self.states(t if t.dim() else t[None])
        for view in self.views:
            state = view(state)
        if t.dim():
            return state
        return state[0] if isinstance(state, Tensor) else tuple(leaf[0] for leaf in state)

    def unpacked(self, view: View) -> Self:
        """The same with a further public view."""
        return replace(self, views=(*self.views, view))


@dataclass(frozen=True, eq=False)
class Interpolant(DenseOutput):
    """The solution at any time, by the polynomial of the step that contains it.

    Attributes:
        steps: The steps, of C clocks.
        values: (R, *state), all rows.
        end: (C,), the last times.
    """

    steps: Steps
    values: Tensor
    end: Tensor

    def states(self, t: Tensor) -> Tensor:
        self.check_shape(t)
        own = t.to(self.steps.starts).expand(self.steps.clocks, -1)
        with full_precision(self.values):
            return self.at(own.t(), self.numbers(own.detach(), t.dtype))

    def check_shape(self, t: Tensor) -> None:
        """Rejects times that are neither (m,) nor, for per-sample clocks, (B, m).

        Raises:
            SettingError: t has another shape.
        """
        clocks, per_sample = self.steps.clocks, self.steps.per_sample
        if t.dim() != 1 and not (per_sample and t.dim() == 2 and len(t) == clocks):
            allowed = "several, (m,)" + (f", or such of each sample, ({clocks}, m)" if per_sample else "")
            raise SettingError(
                f"t must be one time, (),{'' if per_sample else ' or'} {allowed}; its shape is {tuple(t.shape)}"
            )

    def numbers(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """(m, C), the indices of the steps that contain each clock's times t, (C, m), up to roundings of the dtype.

        Raises:
            SettingError: A time lies outside.
        """
        steps, sign = self.steps, self.steps.sign[:, None]
        check_inside(t, steps.first, self.end, sign, dtype, steps.per_sample)
        beyond = torch.arange(len(steps.ends), device=t.device) >= steps.count[:, None] - 1
        ends = (sign * steps.ends.detach().t()).masked_fill(beyond, torch.inf)  # the last step is unbounded
        return torch.searchsorted(ends.contiguous(), (sign * t).contiguous()).t()

    def at(self, t: Tensor, numbers: Tensor) -> Tensor:
        """(m, *state), the packed states at the times t, (m, C), by the polynomials of these steps, (m, C)."""
        steps, clock = self.steps, torch.arange(t.shape[1], device=t.device)
        start, end = steps.starts[numbers, clock], steps.ends[numbers, clock]
        weights = weights_at((t - start) / (end - start), steps.degree).to(self.values)
        combine = self._by_step if len(clock) == 1 and len(t) > 1 else self._by_clock
        return combine(weights, numbers).view(len(t), *self.values.shape[1:])

    def _by_clock(self, weights: Tensor, numbers: Tensor) -> Tensor:
        """(m, C, n), rows combined with weights (m, C, d + 1) in steps (m, C): one product of copied rows."""
        clocks = weights.shape[1]
        places = self.steps.rows[numbers] * clocks + torch.arange(clocks, device=numbers.device)[:, None]
        values = by_clock(self.values, clocks).flatten(0, 1)[places.to(weights.device)]
        return weights[..., None, :] @ values

    def _by_step(self, weights: Tensor, numbers: Tensor) -> Tensor:
        """(m, n), the same for one clock: one product per step, without copies of rows."""
        (number, order), device = numbers.squeeze(1).sort(stable=True), weights.device
        used, counts = number.unique_consecutive(return_counts=True)
        edges = [0, *(edge for row, *_, last in self.steps.rows[used].tolist() for edge in (row, last + 1))]
        sizes = [end - start for start, end in pairwise([*edges, len(self.values)])]
        blocks = by_clock(self.values, 1).squeeze(1).split(sizes)[1::2]
        parts = weights.squeeze(1)[order.to(device)].split(counts.tolist())
        products = torch.cat([part @ block for part, block in zip(parts, blocks, strict=True)])
        return products[order.argsort().to(device)]

    def detach(self) -> "Interpolant":
        """The same without gradients."""
        return replace(self, steps=self.steps.moved(Tensor.detach), values=self.values.detach())


def check_inside(t: Tensor, first: Tensor, end: Tensor, sign: Tensor, dtype: torch.dtype, per_sample: bool) -> None:
    """Rejects times (C, m) outside of the interval of their clock, from first, (C,), to end, (C,).

    Args:
        t: (C, m), the times.
        first: (C,), the first times.
        end: (C,), the last times.
        sign: (C, 1), the direction of time.
        dtype: The dtype in which the times were given; its roundings are allowed.
        per_sample: Whether clocks are those of samples.

    Raises:
        SettingError: A time lies outside.
    """
    first, end = first[:, None], end[:, None]
    slack = 4 * torch.finfo(dtype).eps * torch.maximum(first.abs(), end.abs())
    outside = ~((sign * (t - first) >= -slack) & (sign * (end - t) >= -slack))
    if bool(outside.any()):
        clock = int(outside.any(1).nonzero()[0])
        raise SettingError(
            f"t = {float(t[clock][outside[clock]][0]):g} lies outside of the solution"
            f"{f' of sample {clock}' if per_sample else ''}, which goes from {float(first[clock]):g} to "
            f"{float(end[clock]):g}. Solve over a longer interval"
        )
