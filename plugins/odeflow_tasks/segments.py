"""Segments: a trajectory divided into segments that are solved in parallel, and their initial states."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import odeflow as of

ROUNDING = 8
"""Times are equal if they differ by at most this many roundings of the largest one."""
COARSE = 0.01
"""Maximum rounding error of a segment's start time, as a fraction of the smallest step."""


@dataclass(frozen=True)
class Segments:
    """S segments of at most L times each. The last time of a segment is the first of the next one.

    Attributes:
        rows: (L, S), indices of the times; padded with the last one.
        inside: (L, S), bool: False for padding.
        grid: (R,), the times of all segments, relative to their starts.
        places: (L, S), indices into the grid.
        starts: (S,), the start times of the segments.
    """

    rows: Tensor
    inside: Tensor
    grid: Tensor
    places: Tensor
    starts: Tensor

    @classmethod
    def cut(cls, t: Tensor, length: int) -> "Segments":
        """Divides at least two monotone times (T,) into segments of `length` times; the last one may be shorter."""
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
        """(S,), the start times of the segments in the states' dtype.

        Raises:
            DataError: The dtype cannot resolve these times.
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
        """The solution on the grid, (R, S, B, d), restricted to the times of each segment, (L, S, B, d)."""
        return y[self.places, torch.arange(y.shape[1], device=y.device)]


class LearnedStates(nn.Module):
    """The initial states of segments and the final state of the last one, learned, and initialised by observations.

    They belong to the trajectories of the first batch. Their number is set by that batch or by a checkpoint.

    Attributes:
        states: (S + 1, B, d), the learned states.
        observed: (S + 1, B, d), the observations at the same times.
    """

    observed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.states = nn.Parameter(torch.empty(0))
        self.register_buffer("observed", torch.empty(0))
        self.register_load_state_dict_pre_hook(_make_room)

    def forward(self, observed: Tensor) -> Tensor:
        """The learned states of the observed trajectories.

        Args:
            observed: (S + 1, B, d).

        Returns:
            (S + 1, B, d).

        Raises:
            DataError: The trajectories differ from those of the first batch.
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
        """The learned states for observed states (B, d), if they were learned; otherwise `y0` itself."""
        for state, observed in zip(self.states, self.observed, strict=True):
            if torch.equal(observed, y0):
                return state
        return y0


def _make_room(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Resizes the states of a module to those in a checkpoint."""
    assert isinstance(module, LearnedStates)
    for name, value in (("states", module.states), ("observed", module.observed)):
        if prefix + name in state:
            value.data = torch.empty_like(state[prefix + name], device=value.device)
