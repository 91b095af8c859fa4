"""Samples with a clock each: the field as their steps see it, and where these end."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odeflow.engine.equation.clock import DTYPE, column
from odeflow.engine.equation.state import Field, check_shape
from odeflow.engine.loop.control import SAME_STEP
from odeflow.errors import StateError

Window = tuple[Tensor, Tensor]
"""(b,) and (b,): between which times the field is evaluated in each sample's step, whatever the stage."""


class OwnClocks:
    """A field as a function of the time τ that runs from 0 to 1 in every sample's own step: dy/dτ = h f(t + τh, y).

    So a step of each sample's own size is one common step of size 1, for which `Stages` are made.

    Args:
        inner: (t of shape (b,), y of shape (b, *state)) ↦ slopes.

    Attributes:
        t: (b,), where each sample's step begins.
        h: (b,), its size; a sample of size 0 stays where it is.
        known: (b, *state), the slopes at the beginning, which are used at the next call instead of an evaluation.
        window: Where the field is evaluated, if it jumps somewhere.
        slope: (b, *state), the slopes dy/dt of the last call.
        evaluations: How often the field was evaluated.
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
        """Goes to the beginning of the next step."""
        self.t, self.h, self.known, self.window = t, h, known, window

    def __call__(self, tau: Tensor, y: Tensor) -> Tensor:
        if self.known is None:
            self.slope = self.evaluate(self.t + tau * self.h, y, self.window)
        else:
            self.slope, self.known = self.known, None
        return self.slope * column(self.h, y)

    def evaluate(self, t: Tensor, y: Tensor, window: Window | None = None) -> Tensor:
        """dy/dt at each sample's own time, counted and checked.

        Raises:
            StateError: The field's value has another shape than y.
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
    """The times at which the field jumps, where the steps of all samples end.

    Args:
        times: In any order.
        sign: 1 if the clocks go forwards, −1 if backwards.
        like: A state; the field's times are of its dtype.
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
        """For steps from t, (b,): the next time of a jump, (b,), and between which times the field is evaluated."""
        number = torch.searchsorted(self.ascending, self.sign * t, right=True)
        first, last = self.after[number], self.before[number]
        return self.stops[number], (first, last) if self.sign > 0 else (last, first)


@dataclass
class Samples:
    """Those samples of the batch that are stepped.

    Attributes:
        ids: (b,), their numbers in the batch.
        t: (b,), their clocks.
        stop: (b,), where they end.
        h: (b,), sizes of their next steps, signed.
        y: (b, *state).
        row: (b,), the row of the solution that each comes to next.
        past: (n, b), what the control remembers of their last steps.
        first: (b, *state), f(t, y), where the last step has left it.
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
        """(b,), which are on their way."""
        return self.t != self.stop

    def narrowed(self, keep: Tensor) -> "Samples":
        """Some of them, by their numbers in here."""
        first = None if self.first is None else self.first[keep]
        t, stop, h, past = self.t[keep], self.stop[keep], self.h[keep], self.past[:, keep]
        return Samples(self.ids[keep], t, stop, h, self.y[keep], self.row[keep], past, first)

    def step(self, stop: Tensor) -> tuple[Tensor, Tensor]:
        """(where the next step ends, its size), each (b,); not beyond `stop`, (b,); samples at their end stay."""
        end = torch.where((stop - self.t).abs() <= self.h.abs() * (1 + SAME_STEP), stop, self.t + self.h)
        return end, end - self.t
