"""Per-sample clocks: the rescaled field, discontinuities, and the state of the samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odeflow.engine.equation.clock import DTYPE, SAME_STEP, column
from odeflow.engine.equation.state import Field, check_shape
from odeflow.errors import StateError

Window = tuple[Tensor, Tensor]
"""(b,) and (b,): the times between which all stages of each sample's step evaluate the field."""


class OwnClocks:
    """A field in the rescaled time τ, from 0 to 1 in each sample's step: dy/dτ = h f(t + τh, y).

    Per-sample steps thus become one common step of size 1, which `Stages` can take.

    Args:
        inner: (t of shape (b,), y of shape (b, *state)) ↦ dy/dt.

    Attributes:
        t: (b,), the start of each sample's step.
        h: (b,), its size; a sample with size 0 does not move.
        known: (b, *state), dy/dt at the start, used at the next call instead of an evaluation.
        window: The times between which the field is evaluated, if it has discontinuities.
        slope: (b, *state), dy/dt of the last call.
        evaluations: Number of evaluations of the field.
    """

    t: Tensor
    h: Tensor
    slope: Tensor

    def __init__(self, inner: Field) -> None:
        self.inner = inner
        self.known: Tensor | None = None
        self.window: Window | None = None
        self.evaluations = 0

    def set(self, t: Tensor, h: Tensor, known: Tensor | None = None, window: Window | None = None) -> None:
        """Moves to the start of the next step."""
        self.t, self.h, self.known, self.window = t, h, known, window

    def __call__(self, tau: Tensor, y: Tensor) -> Tensor:
        if self.known is None:
            self.slope = self.evaluate(self.t + tau * self.h, y, self.window)
        else:
            self.slope, self.known = self.known, None
        return self.slope * column(self.h, y)

    def evaluate(self, t: Tensor, y: Tensor, window: Window | None = None) -> Tensor:
        """dy/dt at per-sample times, counted and checked.

        Raises:
            StateError: The shape of the field's value differs from that of y.
        """
        self.evaluations += 1
        t = t.to(y)
        if window is not None:
            t = t.clamp(*window)
        try:
            slope = self.inner(t, y)
        except (RuntimeError, ValueError, StateError) as problem:
            problem.add_note(
                "Under per_sample=True the field is called with one time for each sample: "
                f"t of shape {tuple(t.shape)}, y of shape {tuple(y.shape)}."
            )
            raise
        if slope.shape != y.shape:
            check_shape(slope, y.shape, f", called with t of shape {tuple(t.shape)},")
        return slope


class Breaks:
    """The times at which the field is discontinuous, where the steps of all samples end.

    Args:
        times: The times, in any order.
        sign: 1 for forward integration, −1 for backward.
        like: A state; the field's times have its dtype.
    """

    def __init__(self, times: Sequence[float], sign: float, like: Tensor) -> None:
        ascending = torch.tensor(sorted({sign * time for time in times}), dtype=DTYPE, device=like.device)
        self.sign, self.ascending = sign, ascending
        far = like.new_full((1,), sign * torch.inf)
        stops = (sign * ascending).to(like.dtype)
        self.stops = torch.cat((sign * ascending, far.to(DTYPE)))
        self.before = torch.cat((torch.nextafter(stops, -far), far))
        self.after = torch.cat((-far, torch.nextafter(stops, far)))

    def ahead(self, t: Tensor) -> tuple[Tensor, Window]:
        """For steps from t, (b,): the next discontinuity, (b,), and the window of the field's evaluations."""
        number = torch.searchsorted(self.ascending, self.sign * t, right=True)
        first, last = self.after[number], self.before[number]
        return self.stops[number], (first, last) if self.sign > 0 else (last, first)


@dataclass
class Samples:
    """The samples of the batch that are still being integrated.

    Attributes:
        ids: (b,), their indices in the batch.
        t: (b,), their clocks.
        stop: (b,), their last times.
        h: (b,), signed sizes of their next steps.
        y: (b, *state).
        row: (b,), the next row of the solution of each.
        past: (n, b), their controller histories.
        first: (b, *state), f(t, y), if the last step provided it.
    """

    ids: Tensor
    t: Tensor
    stop: Tensor
    h: Tensor
    y: Tensor
    row: Tensor
    past: Tensor
    first: Tensor | None

    @property
    def moving(self) -> Tensor:
        """(b,), whether a sample has not reached its last time."""
        return self.t != self.stop

    def narrowed(self, keep: Tensor) -> "Samples":
        """The subset with the indices `keep`."""
        first = None if self.first is None else self.first[keep]
        t, stop, h, past = self.t[keep], self.stop[keep], self.h[keep], self.past[:, keep]
        return Samples(self.ids[keep], t, stop, h, self.y[keep], self.row[keep], past, first)

    def step(self, stop: Tensor) -> tuple[Tensor, Tensor]:
        """(end of the next step, its size), each (b,), truncated at `stop`, (b,). Finished samples do not move."""
        end = torch.where((stop - self.t).abs() <= self.h.abs() * (1 + SAME_STEP), stop, self.t + self.h)
        return end, end - self.t
