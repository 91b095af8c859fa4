"""Segments: trajectories divided into segments that are solved in parallel."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

import odeflow as of
from odeflow_tasks import covariates
from odeflow_tasks.interpolation import Interpolation

ROUNDING = 8
"""Times are equal if they differ by at most this many roundings of the largest one."""
COARSE = 0.01
"""Maximum rounding error of a segment's start time, as a fraction of the smallest step."""


@dataclass(frozen=True)
class Segments:
    """S segments of B trajectories, of at most L times each. The last time of a segment is the first of the next one.

    Attributes:
        rows: (L, S), indices of the times; padded with the last one.
        inside: (L, S), bool: False for padding.
        grid: (R,), the times of all segments, relative to their starts.
        places: (L, S, B), indices into the grid.
        starts: (S, B), the start times of the segments.
        control: (S, B, T, c), external inputs, nan where unknown; None if there are none.
        knots: (S, B, T), the times of the inputs, relative to the starts; None if there are none.
        interpolation: Of the inputs; None if there are none.
        jump: (R, S, B, d), what is added to the states right after each time of the grid; None if nothing is.
    """

    rows: Tensor
    inside: Tensor
    grid: Tensor
    places: Tensor
    starts: Tensor
    control: Tensor | None = None
    knots: Tensor | None = None
    interpolation: Interpolation | None = None
    jump: Tensor | None = None

    @classmethod
    def cut(cls, t: Tensor, length: int) -> "Segments":
        """Divides at least two times (B, T), in order in each row, into segments of `length` times.

        The last segment may be shorter. Equal times of padding give segments without duration.
        """
        last = t.shape[1] - 1
        first = torch.arange(0, last, length - 1, device=t.device)
        rows = first + torch.arange(min(length, last + 1), device=t.device)[:, None]
        inside, rows = rows <= last, rows.clamp(max=last)
        direction = (t[:, -1] - t[:, 0]).sum().sign()
        relative = (t.T[rows] - t.T[first]) * direction
        ordered, order = relative.flatten().sort()
        fresh = ordered.diff() > ROUNDING * torch.finfo(t.dtype).eps * t.abs().max()
        number = torch.cat([fresh.new_zeros(1), fresh]).cumsum(0)
        places = torch.empty_like(order).scatter_(0, order, number).view_as(relative)
        grid = direction * ordered[torch.cat([fresh.new_ones(1), fresh])]
        return cls(rows, inside, grid, places, t.T[first])

    def repeated(self, count: int) -> "Segments":
        """The segments of `count` copies of the trajectories, one after the other."""
        return Segments(
            self.rows,
            self.inside,
            self.grid,
            self.places.repeat(1, 1, count),
            self.starts.repeat(1, count),
            None if self.control is None else self.control.repeat(1, count, 1, 1),
            None if self.knots is None else self.knots.repeat(1, count, 1),
            self.interpolation,
            None if self.jump is None else self.jump.repeat(1, 1, count, 1),
        )

    def driven(self, batch: of.Series, interpolation: Interpolation) -> "Segments":
        """These segments with the inputs and jumps of their trajectories."""
        control, knots, jump = covariates.over_time(batch), None, None
        if control is not None:
            control = control.to(batch.y).expand(len(self.starts), -1, -1, -1)
            knots = batch.t - self.starts[..., None]
        if batch.jump is not None:
            added = self.of(batch.jump.to(batch.y)) * self.inside[..., None, None]
            jump = added.new_zeros(len(self.grid), *added.shape[1:])
            jump.scatter_add_(0, self.places[..., None].expand_as(added), added)
        return replace(self, control=control, knots=knots, interpolation=interpolation, jump=jump)

    def context(self, dtype: torch.dtype) -> Tensor | of.paths.Path | None:
        """What the field depends on beside state and relative time: the inputs, and the start times if they differ.

        Args:
            dtype: Of the states.
        """
        if self.control is None or self.knots is None or self.interpolation is None:
            return None if self.simultaneous else self.clocks(dtype).reshape(-1, 1)
        clocks, knots = self.clocks(dtype).reshape(-1, 1), self.knots.flatten(0, 1)
        common = knots[:1] if bool((knots == knots[:1]).all()) else knots
        path = self.interpolation.path(common, self.control.flatten(0, 1))
        if len(common) > 1 and path.continuous:  # the breaks of several samples are many, and kinks are mild
            path = of.paths.Function(path, derivative=path.derivative, tensors=path.tensors)
        return of.paths.Joined(path, of.paths.Constant(clocks))

    @property
    def simultaneous(self) -> bool:
        """Whether all segments begin at the same time."""
        return bool((self.starts == self.starts[0, 0]).all())

    def of(self, values: Tensor) -> Tensor:
        """Values at the times of the trajectories, (B, T, …), by segment, (L, S, B, …)."""
        return values.movedim(1, 0)[self.rows]

    def whole(self, values: Tensor) -> Tensor:
        """Values by segment, (L, S, B, …), at the times of the trajectories, (B, T, …)."""
        found = values.new_empty(int(self.rows.max()) + 1, *values.shape[2:])
        found[self.rows[self.inside]] = values[self.inside]
        return found.movedim(0, 1)

    def clocks(self, dtype: torch.dtype) -> Tensor:
        """(S, B), the start times of the segments in the states' dtype.

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
        """The solution on the grid, (R, S, B, d), at the times of each segment, (L, S, B, d)."""
        return y.gather(0, self.places[..., None].expand(*self.places.shape, y.shape[-1]))
