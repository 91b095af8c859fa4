"""Samples with a clock each: the field as their steps see it, and the output times that they pass."""

from dataclasses import dataclass

import torch
from torch import Tensor

from odeflow.errors import StateError
from odeflow.stages import TracedStages, ValueStages
from odeflow.state import Field, check_shape
from odeflow.stepping import SAME_STEP
from odeflow.tableau import Tableau

SlopeStages = ValueStages | TracedStages
DTYPE = torch.float64  # of clocks and step sizes


class OwnClocks:
    """A field as a function of the time τ that runs from 0 to 1 in every sample's own step: dy/dτ = h f(t + τh, y).

    So a step of each sample's own size is one common step of size 1, for which `Stages` are made.

    Args:
        inner: (t of shape (b,), y of shape (b, *state)) ↦ slopes.

    Attributes:
        t: (b,), where each sample's step begins.
        h: (b,), its size; a sample of size 0 stays where it is.
        known: (b, *state), the slopes at the beginning, which are used at the next call instead of an evaluation.
        slope: (b, *state), the slopes dy/dt of the last call.
        evaluations: How often the field was evaluated.
    """

    t: Tensor
    h: Tensor
    slope: Tensor

    def __init__(self, inner: Field) -> None:
        self.inner = inner
        self.known: Tensor | None = None
        self.evaluations = 0

    def set(self, t: Tensor, h: Tensor, known: Tensor | None = None) -> None:
        """Goes to the beginning of the next step."""
        self.t, self.h, self.known = t, h, known

    def __call__(self, tau: Tensor, y: Tensor) -> Tensor:
        if self.known is None:
            self.slope = self.evaluate(self.t + tau * self.h, y)
        else:
            self.slope, self.known = self.known, None
        return self.slope * column(self.h, y)

    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt at each sample's own time, counted and checked.

        Raises:
            StateError: The field's value has another shape than y.
        """
        self.evaluations += 1
        try:
            slope = self.inner(t.to(y), y)
        except (RuntimeError, ValueError, StateError) as problem:
            problem.add_note(
                "Under per_sample=True the field is called with one time for each sample: "
                f"t of shape {tuple(t.shape)}, y of shape {tuple(y.shape)}."
            )
            raise
        if slope.shape != y.shape:
            check_shape(slope, y.shape, f", called with t of shape {tuple(t.shape)},")
        return slope


def column(values: Tensor, y: Tensor) -> Tensor:
    """(b,) ↦ (b, 1, …), to be multiplied with states like y."""
    return values.to(y).view(-1, *(1,) * (y.dim() - 1))


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
        first: (b, *state), f(t, y), where the last step has left it.
    """

    ids: Tensor
    t: Tensor
    stop: Tensor
    h: Tensor
    y: Tensor
    row: Tensor
    first: Tensor | None

    def narrowed(self, keep: Tensor) -> "Samples":
        """Some of them, by their numbers in here."""
        first = None if self.first is None else self.first[keep]
        t, stop, h = self.t[keep], self.stop[keep], self.h[keep]
        return Samples(self.ids[keep], t, stop, h, self.y[keep], self.row[keep], first)

    def step(self) -> tuple[Tensor, Tensor]:
        """(where the next step ends, its size), each (b,); samples at their end stay."""
        end = torch.where((self.stop - self.t).abs() <= self.h.abs() * (1 + SAME_STEP), self.stop, self.t + self.h)
        return end, end - self.t


@dataclass(frozen=True)
class Passed:
    """The output times that the samples pass in one step.

    Attributes:
        sample: (m,), which sample passes the time, for the times inside its step.
        theta: (m,), the place of the time in that step, between 0 and 1.
        row: (m,), the row of the solution.
        ending: (k,), which samples end their step at an output time.
        ending_row: (k,), the rows of the solution.
    """

    sample: Tensor
    theta: Tensor
    row: Tensor
    ending: Tensor
    ending_row: Tensor

    def __len__(self) -> int:
        return len(self.row) + len(self.ending_row)

    def values(self, stages: SlopeStages, tableau: Tableau, y: Tensor, y1: Tensor) -> Tensor:
        """(m + k, *state), the states at these times, after the step from y to y1.

        y(t + θh) = y + Σ_d θᵈ P_d, where the coefficients P of all samples are one product with the slopes.
        """
        ends = y1[self.ending]
        if not len(self.sample):
            return ends
        stages.last_slope()
        slopes = stages.slopes if isinstance(stages, ValueStages) else torch.stack(list(stages.slopes))
        coefficients = slopes.new_tensor(tableau.interpolation).t() @ slopes.flatten(1)
        coefficients = coefficients.view(-1, *y.shape)
        theta = column(self.theta, y)
        inside = coefficients[-1][self.sample] * theta
        for lower in coefficients[:-1].flip(0):
            inside = (inside + lower[self.sample]) * theta
        return torch.cat((y[self.sample] + inside, ends))


class Outputs:
    """The solution's rows, of which each sample passes as many in a step as lie there.

    Args:
        t: (T,) or (B, T), the times.
        y0: (B, *state), row 0.
    """

    def __init__(self, t: Tensor, y0: Tensor) -> None:
        times = t.to(y0.device, DTYPE)
        gaps = times.diff().abs().amin(-1)
        largest = times[..., [0, -1]].abs().amax(-1)
        self.tolerance = (4 * torch.finfo(t.dtype).eps * largest).minimum(0.25 * gaps)
        self.sign = 1.0 if bool((times[..., -1] > times[..., 0]).all()) else -1.0
        self.times = (times * self.sign).contiguous()  # ascending
        self.shape = (t.shape[-1], *y0.shape)
        self.values = [y0]
        self.places = [torch.arange(len(y0), device=y0.device)]

    def count(self, samples: Samples, end: Tensor) -> tuple[Tensor, Tensor]:
        """For steps that end there: the first row (b,) not inside each step, and the first not passed by it."""
        end = end * self.sign
        if self.times.dim() == 1:
            return (
                torch.searchsorted(self.times, end - self.tolerance),
                torch.searchsorted(self.times, end + self.tolerance, right=True),
            )
        times, end, tolerance = self.times[samples.ids], end[:, None], self.tolerance[samples.ids, None]
        inside = torch.searchsorted(times, end - tolerance)
        return inside.squeeze(1), torch.searchsorted(times, end + tolerance, right=True).squeeze(1)

    def passed(self, samples: Samples, h: Tensor, inside: Tensor, beyond: Tensor) -> Passed:
        """The rows from each sample's next one to those of `count`.

        Args:
            samples: At the beginning of the step.
            h: (b,), sizes of the step.
            inside: (b,), the first row not inside, not below `samples.row`.
            beyond: (b,), the first row not passed.
        """
        number = inside - samples.row
        sample = torch.repeat_interleave(number)
        first = number.cumsum(0) - number
        row = torch.arange(len(sample), device=sample.device) + (samples.row - first)[sample]
        times = self.times[row] if self.times.dim() == 1 else self.times[samples.ids[sample], row]
        theta = (times * self.sign - samples.t[sample]) / h[sample]
        ending = (beyond > inside).nonzero().squeeze(1)
        return Passed(sample, theta, row, ending, inside[ending])

    def add(self, samples: Samples, passed: Passed, values: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the states at the times passed; returns (row, sample) of each in the solution."""
        rows = torch.cat((passed.row, passed.ending_row))
        ids = samples.ids[torch.cat((passed.sample, passed.ending))]
        self.values.append(values)
        self.places.append(rows * self.shape[1] + ids)
        return rows, ids

    def solution(self) -> Tensor:
        """(T, B, *state)."""
        places = torch.cat(self.places)
        order = torch.empty_like(places).scatter_(0, places, torch.arange(len(places), device=places.device))
        return torch.cat(self.values)[order].view(self.shape)
