"""Knots: the observations that a path interpolates."""

from dataclasses import dataclass

import torch
from torch import Tensor

from odeflow.errors import DataError


@dataclass(frozen=True)
class Knots:
    """Observations of several channels, in which each channel of a sample may lack some.

    In the arrays of `t` and `x` the observations of each sample and channel come first, in the order of time; the rest
    repeats the last one. A row without any observation thus has no effect.

    Attributes:
        times: (K, T), the times of all rows; K = 1 for times common to all samples, else K = B.
        t: (K, T, 1, …), or with missing values (B, T, c, …), the times of the observations.
        x: (B, T, c, …), the observed values. 0 where a channel was never observed.
        count: (B, 1, c, …), the numbers of observations; None if none is missing.
        past: (B, T + 1, c, …), the numbers of observations among the first 0, …, T rows; None if none is missing.
        seen: (K, T), whether any channel is observed.
    """

    times: Tensor
    t: Tensor
    x: Tensor
    count: Tensor | None
    past: Tensor | None
    seen: Tensor

    @classmethod
    def of(cls, t: Tensor, x: Tensor, mask: Tensor | None) -> "Knots":
        """The knots of a batch of series.

        Args:
            t: (T,), times common to all samples, or (B, T), per-sample times. No gradient flows to them.
            x: (B, T, c, …), the values.
            mask: (B, T) or (B, T, c, …), whether a value is observed. By default those that are not nan.

        Raises:
            DataError: The shapes do not match, or the times of the observations do not increase.
        """
        times = t.detach() if t.is_floating_point() else t.double()
        times = times[None] if times.dim() == 1 else times
        if not x.is_floating_point() or x.dim() < 3 or times.dim() != 2 or times.shape[1] not in (0, x.shape[1]):
            raise DataError(
                "a path needs times of shape (T,) or (B, T) and floating-point values of shape (B, T, c, …), B = 1 for "
                f"a path common to all samples; got t of shape {tuple(t.shape)} and x of shape {tuple(x.shape)}, "
                f"{x.dtype}"
            )
        if not x.shape[1] or len(times) not in (1, len(x)):
            raise DataError(
                f"a path needs a time for each value, at least one; got t of shape {tuple(t.shape)} and x of shape "
                f"{tuple(x.shape)}"
            )
        known = ~x.isnan() if mask is None else _matched(mask, x)
        row = known.flatten(2).any(-1)
        seen = row if len(times) > 1 else row.any(0, keepdim=True)
        _check_order(times, seen)
        if bool(known.all()):
            return cls(times, times.view(*times.shape, *(1,) * (x.dim() - 2)), x, None, None, seen)
        count = known.sum(1, keepdim=True)
        order = (~known).to(torch.uint8).argsort(dim=1, stable=True)
        place = torch.arange(x.shape[1], device=x.device).view(1, -1, *(1,) * (x.dim() - 2))
        order = order.gather(1, place.minimum((count - 1).clamp(min=0)).expand_as(order))
        own = times.view(*times.shape, *(1,) * (x.dim() - 2)).expand(x.shape).gather(1, order)
        past = torch.cat((torch.zeros_like(count), known.cumsum(1)), 1)
        return cls(times, own, x.where(known, 0).gather(1, order), count, past, seen)

    def steps(self) -> Tensor:
        """(K, T − 1, 1, …) or (B, T − 1, c, …), the times between observations, in x's dtype; 1 beyond the last."""
        steps = self.t.diff(dim=1).to(self.x)
        return steps if self.count is None else steps.where(self._place(1) < self.count, 1)

    def at_last(self, values: Tensor, back: int = 0) -> Tensor:
        """(K or B, 1, …), the entry of the last observation, or of the one `back` before it, if there is one.

        Args:
            values: (K, ≤ T, 1, …) or (B, ≤ T, c, …), an entry for each observation.
            back: How many observations before the last.
        """
        if self.count is None:
            place = max(self.x.shape[1] - 1 - back, 0)
            return values[:, place : place + 1]
        return values.expand(len(self.x), -1, *self.x.shape[2:]).gather(1, (self.count - 1 - back).clamp(min=0))

    def is_last(self) -> Tensor:
        """(1, T, 1, …) or (B, T, c, …), whether an observation is the last one."""
        return self._place(0) == (self.x.shape[1] - 1 if self.count is None else self.count - 1)

    def is_beyond(self) -> Tensor:
        """(1, T, 1, …) or (B, T, c, …), whether an entry is beyond the last observation."""
        return self._place(0) > (self.x.shape[1] - 1 if self.count is None else self.count - 1)

    def _place(self, start: int) -> Tensor:
        return torch.arange(start, self.x.shape[1], device=self.x.device).view(1, -1, *(1,) * (self.x.dim() - 2))


def _matched(mask: Tensor, x: Tensor) -> Tensor:
    """The mask in the shape of the values."""
    if mask.shape == x.shape[:2]:
        mask = mask.view(*mask.shape, *(1,) * (x.dim() - 2)).expand_as(x)
    if mask.shape != x.shape:
        raise DataError(
            f"the mask of a path must have the shape of its values, {tuple(x.shape)}, or {tuple(x.shape[:2])}; got "
            f"{tuple(mask.shape)}"
        )
    return mask.bool()


def _check_order(times: Tensor, seen: Tensor) -> None:
    """Rejects times that do not increase. Rows without any observation, such as padding, may repeat a time.

    Raises:
        DataError: They do not, or are not finite.
    """
    steps = times.diff(dim=1)
    fine = (steps > 0) | ((steps == 0) & ~seen[:, 1:])
    if not bool(fine.all() & times.isfinite().all()):
        sample = int((~fine).any(1).int().argmax())
        listed = ", ".join(f"{time:g}" for time in times[sample].tolist()[:8])
        raise DataError(
            f"the times of a path must be finite and strictly increasing; sample {sample} has {listed}"
            f"{' …' if times.shape[1] > 8 else ''}. Sort them; rows that pad a series may repeat its last time if all "
            "of their values are missing"
        )
