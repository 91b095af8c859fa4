"""Dense output: the solution at any time in its interval."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.equation.field import full_precision, uncompiled
from odeflow.engine.equation.state import State
from odeflow.engine.output.mesh import Steps, by_clock, weights_at
from odeflow.errors import SettingError

View = Callable[[Any], State]
"""(m, *state) ↦ its public view, with the same leading dimension."""


@dataclass(frozen=True, eq=False)
class Interpolant:
    """The solution at any time, by the polynomial of the step that contains it.

    Attributes:
        steps: The steps, of C clocks.
        values: (R, *state), all rows.
        end: (C,), the last times.
        views: Public views, applied in order.
    """

    steps: Steps
    values: Tensor
    end: Tensor
    views: tuple[View, ...] = ()

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
        if not isinstance(t, Tensor):
            t = torch.tensor(t, dtype=torch.float64)
        t = t if t.is_floating_point() else t.double()
        state: State = self.states(t if t.dim() else t[None])
        for view in self.views:
            state = view(state)
        if t.dim():
            return state
        return state[0] if isinstance(state, Tensor) else tuple(leaf[0] for leaf in state)

    def states(self, t: Tensor) -> Tensor:
        """(m, *state), the packed states at the times t, (m,), or (B, m) for per-sample clocks.

        Raises:
            SettingError: A time lies outside the interval, or t has the wrong shape.
        """
        clocks, per_sample = self.steps.clocks, self.steps.per_sample
        if t.dim() != 1 and not (per_sample and t.dim() == 2 and len(t) == clocks):
            allowed = "several, (m,)" + (f", or such of each sample, ({clocks}, m)" if per_sample else "")
            raise SettingError(
                f"t must be one time, (),{'' if per_sample else ' or'} {allowed}; its shape is {tuple(t.shape)}"
            )
        own = t.to(self.steps.starts).expand(clocks, -1)
        with full_precision(self.values):
            return self.at(own.t(), self.numbers(own.detach(), torch.finfo(t.dtype).eps))

    def numbers(self, t: Tensor, eps: float) -> Tensor:
        """(m, C), the indices of the steps that contain each clock's times t, (C, m), up to roundings of size eps.

        Raises:
            SettingError: A time lies outside.
        """
        steps, first, end, sign = self.steps, self.steps.first[:, None], self.end[:, None], self.steps.sign[:, None]
        slack = 4 * eps * torch.maximum(first.abs(), end.abs())
        outside = ~((sign * (t - first) >= -slack) & (sign * (end - t) >= -slack))
        if bool(outside.any()):
            clock = int(outside.any(1).nonzero()[0])
            raise SettingError(
                f"t = {float(t[clock][outside[clock]][0]):g} lies outside of the solution"
                f"{f' of sample {clock}' if steps.per_sample else ''}, which goes from {float(first[clock]):g} to "
                f"{float(end[clock]):g}. Solve over a longer interval"
            )
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

    def unpacked(self, view: View) -> "Interpolant":
        """The same with a further public view."""
        return replace(self, views=(*self.views, view))

    def detach(self) -> "Interpolant":
        """The same without gradients."""
        return replace(self, steps=self.steps.moved(Tensor.detach), values=self.values.detach())

    def until(self, end: Tensor) -> "Interpolant":
        """The same truncated at earlier times, (C,)."""
        return replace(self, end=end)
