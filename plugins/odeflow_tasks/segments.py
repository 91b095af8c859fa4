"""Segments: a trajectory cut into stretches that are solved beside each other, and where these begin."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import odeflow as of

ROUNDING = 8
"""Times that differ by so many roundings of the largest one are the same."""
COARSE = 0.01
"""By how much of the smallest step a segment's beginning may be rounded."""


@dataclass(frozen=True)
class Segments:
    """Stretches of S segments of at most L times each, of which the last is the first of the next segment.

    Attributes:
        rows: (L, S), which time is which; beyond the last time the last one is repeated.
        inside: (L, S), bool: whether a row is one of the segment's own.
        grid: (R,), all times of all segments, counted from the beginning of each.
        places: (L, S), where in the grid a row is.
        starts: (S,), when each segment begins.
    """

    rows: Tensor
    inside: Tensor
    grid: Tensor
    places: Tensor
    starts: Tensor

    @classmethod
    def cut(cls, t: Tensor, length: int) -> "Segments":
        """Cuts times (T,), two at least and in order, into segments of `length` times; the last one may be shorter."""
        last = len(t) - 1
        first = torch.arange(0, last, length - 1, device=t.device)
        rows = first + torch.arange(min(length, len(t)), device=t.device)[:, None]
        inside, rows = rows <= last, rows.clamp(max=last)
        direction = (t[-1] - t[0]).sign()
        ordered, order = (direction * (t[rows] - t[first])).flatten().sort()
        fresh = ordered.diff() > ROUNDING * torch.finfo(t.dtype).eps * t.abs().max()
        number = torch.cat([fresh.new_zeros(1), fresh]).cumsum(0)
        places = torch.empty_like(order).scatter_(0, order, number).view_as(rows)
        grid = direction * ordered[torch.cat([fresh.new_ones(1), fresh])]
        return cls(rows, inside, grid, places, t[first])

    def clocks(self, dtype: torch.dtype) -> Tensor:
        """(S,), when each segment begins, as numbers of the states' dtype.

        Raises:
            DataError: The dtype cannot tell these times.
        """
        clocks, steps = self.starts.to(dtype), self.grid.diff().abs()
        error = float((clocks.double() - self.starts.double()).abs().max())
        if len(steps) and error > COARSE * float(steps.min()):
            raise of.DataError(
                f"segments begin at times up to {float(self.starts.abs().max()):g}, which {dtype} rounds by up to "
                f"{error:g}, at steps from {float(steps.min()):g} on. Count times from the first one, as t - t[0], or "
                "use float64"
            )
        return clocks

    def gather(self, y: Tensor) -> Tensor:
        """What was solved on the grid, (R, S, B, d), at each segment's own times, (L, S, B, d)."""
        return y[self.places, torch.arange(y.shape[1], device=y.device)]


class LearnedStates(nn.Module):
    """The states in which segments begin, and that in which the last one ends, learned from where they were observed.

    They belong to certain trajectories, those of the first batch, and take their number from it or from a checkpoint.

    Attributes:
        states: (S + 1, B, d), learned.
        observed: (S + 1, B, d), the observations at the same times.
    """

    observed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.states = nn.Parameter(torch.empty(0))
        self.register_buffer("observed", torch.empty(0))
        self.register_load_state_dict_pre_hook(_make_room)

    def forward(self, observed: Tensor) -> Tensor:
        """The learned states of the trajectories that were observed to be there.

        Args:
            observed: (S + 1, B, d).

        Returns:
            (S + 1, B, d).

        Raises:
            DataError: These are other trajectories than those of the first batch.
        """
        if not self.states.numel():
            self.observed, self.states.data = observed.clone(), observed.clone()
        elif not torch.equal(self.observed, observed):
            raise of.DataError(
                "learned states belong to trajectories that are the same in every batch; in this one they are others. "
                "Let each batch hold the whole trajectories, without noise that is drawn anew (for pieces: batch_time "
                "as many as there are, batch_size 1), or use initial='observed'"
            )
        return self.states

    def best(self, y0: Tensor) -> Tensor:
        """What was learned of the states (B, d) that were observed; of others, these themselves."""
        for state, observed in zip(self.states, self.observed, strict=True):
            if torch.equal(observed, y0):
                return state
        return y0


def _make_room(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Lets a module have states of the number that a checkpoint has."""
    assert isinstance(module, LearnedStates)
    for name, value in (("states", module.states), ("observed", module.observed)):
        if prefix + name in state:
            value.data = torch.empty_like(state[prefix + name], device=value.device)
