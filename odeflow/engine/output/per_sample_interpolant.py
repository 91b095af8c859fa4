"""Dense output where each sample has steps of its own."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from odeflow.engine.equation.clock import DTYPE
from odeflow.engine.equation.field import full_precision
from odeflow.engine.output.interpolant import Interpolant, Mesh, nodes, powers_to_values
from odeflow.errors import SettingError

if TYPE_CHECKING:
    from odeflow.engine.loop.per_sample.clocks import Samples


class OwnObserver(Protocol):
    """Sees the steps of the samples as they are accepted."""

    def start(self, t: Tensor, y: Tensor) -> None:
        """The samples start at the times t, (B,), in the states y, (B, *state)."""

    def sees(self, samples: "Samples", taken: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        """Steps of some samples ended.

        Args:
            samples: At the ends of their steps.
            taken: (b,), whose step was accepted.
            number: (B,), the number that each sample's step gets if it is kept.

        Returns:
            (b,), whose step shall be kept, and (b,), whose solve ends with it.
        """
        ...


class OwnMesh(Mesh):
    """What a solve notes of the samples' own steps: the n-th kept step of all samples is one block of d + 1 rows.

    Args:
        dense: Whether all steps are kept.
        observer: Sees the steps; may keep some, and end samples' solves.

    Attributes:
        kept: (B,), how many steps of each sample are kept.
        first: (B,), where they start.
        last: (B,), where they have come to.
    """

    kept: Tensor
    first: Tensor
    last: Tensor

    def __init__(self, dense: bool, observer: OwnObserver | None = None) -> None:
        self.dense, self.observer = dense, observer
        self.asked: list[int] = []
        self.degree = 1
        self.steps: list[_Steps] = []

    @property
    def size(self) -> int:
        """Number of rows of the blocks."""
        return int(self.kept.max()) * (self.degree + 1)

    def start(self, samples: "Samples", rows: int, degree: int) -> None:
        """The solve starts.

        Args:
            samples: All samples.
            rows: How many rows were asked for.
            degree: Of the polynomials.
        """
        self.asked, self.degree, self.steps = list(range(rows)), degree, []
        self.first, self.last = samples.t, samples.t.clone()
        self.kept = torch.zeros_like(samples.ids)
        if self.observer is not None:
            self.observer.start(samples.t, samples.y)

    def note(self, samples: "Samples", taken: Tensor) -> tuple[Tensor, Tensor | None]:
        """Sees the ends of steps.

        Args:
            samples: There.
            taken: (b,), whose step was accepted.

        Returns:
            (b,), whose step is kept, and (b,), whose solve ends with it, if any can.
        """
        self.last[samples.ids] = samples.t
        if self.observer is None:
            return taken, None
        kept, stopped = self.observer.sees(samples, taken, self.kept)
        return taken if self.dense else kept, stopped

    def keep(self, samples: "Samples", h: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keeps steps.

        Args:
            samples: At the beginning of the steps.
            h: (b,), their sizes.
            kept: (b,), whose are kept.

        Returns:
            Whose row, at which place of the step, and which one behind those that were asked for; each (m,).
        """
        whose = kept.nonzero().squeeze(1)
        ids, t = samples.ids[whose], samples.t[whose]
        number, places = self.kept[ids], torch.tensor(nodes(self.degree), dtype=DTYPE, device=ids.device)
        self.steps.append(_Steps(ids, number, t, t + h[whose]))
        self.kept[ids] += 1
        row = number[:, None] * len(places) + torch.arange(len(places), device=ids.device)
        return whose.repeat_interleave(len(places)), places.repeat(len(whose)), row.flatten()

    def interpolant(self, rows: Tensor, move: Callable[[Tensor], Tensor]) -> "OwnInterpolant":
        count = int(self.kept.max())
        starts = self.first.repeat(count, 1)
        ends = starts + 1  # of steps that there are not: anything else
        for each in self.steps:
            starts[each.number, each.ids], ends[each.number, each.ids] = each.start, each.end
        blocks = rows[len(self.asked) :].unflatten(0, (count, self.degree + 1))
        return OwnInterpolant(self, move(starts), move(ends), blocks)


@dataclass(frozen=True)
class _Steps:
    """Kept steps, one of each of some samples.

    Attributes:
        ids: (c,), whose.
        number: (c,), its place among the kept steps of its sample.
        start: (c,), the time at its start.
        end: (c,), the time at its end.
    """

    ids: Tensor
    number: Tensor
    start: Tensor
    end: Tensor


class OwnInterpolant(Interpolant):
    """A solution at any time, where each sample took steps of its own.

    Args:
        mesh: The steps.
        starts: (S, B), the times at which the kept steps start.
        ends: (S, B), those at which they end.
        blocks: (S, d + 1, B, *state), the states at the nodes of the kept steps.

    Attributes:
        end: (B,), the last times.
    """

    def __init__(self, mesh: OwnMesh, starts: Tensor, ends: Tensor, blocks: Tensor) -> None:
        super().__init__()
        self.mesh, self.starts, self.ends, self.blocks = mesh, starts, ends, blocks
        self.end = mesh.last

    def states(self, t: Tensor) -> Tensor:
        """(m, B, *state), the states at the times t, (m,), or (B, m) where each sample has its own."""
        batch = len(self.end)
        if t.dim() > 2 or (t.dim() == 2 and len(t) != batch):
            raise SettingError(
                f"t must be one time, (), several, (m,), or such of each sample, ({batch}, m); "
                f"its shape is {tuple(t.shape)}"
            )
        own = t.to(self.starts).expand(batch, -1)
        with full_precision(self.blocks):
            return self.at(own.t(), self.steps(own.detach(), torch.finfo(t.dtype).eps).t())

    def steps(self, t: Tensor, eps: float) -> Tensor:
        """The numbers of the steps in which each sample's times t, (B, m), lie, up to roundings of size eps.

        Raises:
            SettingError: A time lies outside.
        """
        first, last = self.mesh.first[:, None], self.end[:, None]
        sign, slack = (self.mesh.last[:, None] - first).sign(), 4 * eps * torch.maximum(first.abs(), last.abs())
        outside = ~((sign * (t - first) >= -slack) & (sign * (last - t) >= -slack))
        if bool(outside.any()):
            number = int(outside.any(1).nonzero()[0])
            raise SettingError(
                f"t = {float(t[number][outside[number]][0]):g} lies outside of the solution of sample {number}, which "
                f"goes from {float(first[number]):g} to {float(last[number]):g}. Solve over a longer interval"
            )
        beyond = torch.arange(len(self.ends), device=t.device) >= self.mesh.kept[:, None] - 1
        ends = (sign * self.ends.detach().t()).masked_fill(beyond, torch.inf)  # the last step has no end
        return torch.searchsorted(ends.contiguous(), (sign * t).contiguous())

    def at(self, t: Tensor, steps: Tensor) -> Tensor:
        """(m, B, *state), the states at the times t, (m, B), by the polynomials of these steps, (m, B)."""
        degree, state = self.mesh.degree, self.blocks.shape[3:]
        samples = torch.arange(t.shape[1], device=t.device)
        start, end = self.starts[steps, samples], self.ends[steps, samples]
        place = (t - start) / (end - start)
        weights = place[..., None] ** torch.arange(degree + 1, device=t.device) @ powers_to_values(degree).to(t.device)
        values = self.blocks[steps, :, samples].reshape(*t.shape, degree + 1, state.numel())
        return (weights[..., None, :].to(values) @ values).view(*t.shape, *state)

    def detach(self) -> "OwnInterpolant":
        """The same values without a gradient."""
        other = copy.copy(self)
        other.starts, other.ends, other.blocks = self.starts.detach(), self.ends.detach(), self.blocks.detach()
        return other

    def until(self, end: Tensor) -> "OwnInterpolant":
        """The same up to earlier times, (B,)."""
        other = copy.copy(self)
        other.end = end
        return other
