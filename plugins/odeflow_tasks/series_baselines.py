"""Baselines of time series: predictions without parameters, from the seen values of a series alone."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

import odeflow as of

NAMES = ("persistence", "linear", "mean", "seasonal")


def predictions(batch: of.Series, period: float | None = None) -> dict[str, Tensor]:
    """Predictions of all values by the name of their baseline, each (B, T, d).

    Every value is predicted from the seen values of its feature at other times, so that a seen target does not predict
    itself:

    - "persistence": the last one before it;
    - "linear": linear interpolation in time between the last one before it and the next one after it;
    - "mean": their mean;
    - "seasonal", with a period: the value a period before, or as many periods as it takes to be among the values seen
      before it; linearly interpolated in time.

    Where nothing was seen on one side, the value seen nearest on the other side is held; where nothing was seen at all,
    the prediction is 0.

    Source: Hyndman & Athanasopoulos (2021), "Forecasting: Principles and Practice", section 5.2.

    Args:
        batch: The series.
        period: The period, in the batch's time.
    """
    around = Neighbours.beside(batch)
    found = {
        "persistence": around.values(around.before),
        "linear": around.interpolated(around.time[..., None]),
        "mean": _mean(batch),
    }
    return found if period is None else found | {"seasonal": _seasonal(batch, around, period)}


@dataclass(frozen=True)
class Neighbours:
    """The places of the seen values around a place of each series and feature.

    Attributes:
        time: (B, T), the times.
        y: (B, T, d), the values, 0 where unseen.
        before: (B, N, d), the place of the last seen value before; of the next one if there is none.
        after: (B, N, d), the place of the next seen value after; of the last one if there is none.
    """

    time: Tensor
    y: Tensor
    before: Tensor
    after: Tensor

    @classmethod
    def beside(cls, batch: of.Series) -> Self:
        """Around each place (B, T), which itself is excluded."""
        last, following = _running(batch.seen)
        return cls._filled(batch, last[:, :-1], following[:, 1:])

    @classmethod
    def at(cls, batch: of.Series, t: Tensor) -> Self:
        """Around times (B, N, d); a value seen at such a time is the last one before it."""
        count = torch.searchsorted(batch.t, t.flatten(1), right=True).view(t.shape)
        last, following = _running(batch.seen)
        return cls._filled(batch, last.gather(1, count), following.gather(1, count))

    @classmethod
    def _filled(cls, batch: of.Series, last: Tensor, following: Tensor) -> Self:
        """Each side filled from the other one."""
        size = batch.t.shape[1]
        none_before, none_after = last < 0, following == size
        before = last.where(~none_before, following).clamp(0, size - 1)
        after = following.where(~none_after, last).clamp(0, size - 1)
        return cls(batch.t, batch.y.where(batch.seen, 0.0), before, after)

    def values(self, place: Tensor) -> Tensor:
        """(B, N, d), the values at places."""
        return self.y.gather(1, place)

    def times(self, place: Tensor) -> Tensor:
        """(B, N, d), the times at places."""
        return self.time.gather(1, place.flatten(1)).view(place.shape)

    def interpolated(self, t: Tensor) -> Tensor:
        """(B, N, d), linear interpolation at times (B, N, d) or (B, N, 1) between the two neighbours."""
        first, second = self.times(self.before), self.times(self.after)
        length = second - first
        share = ((t - first) / length.where(length != 0, 1.0)).clamp(0, 1)
        return self.values(self.before).lerp(self.values(self.after), share)


def _running(seen: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T + 1, d) each: the last seen place before a place, −1 if none, and the first one from it on, T if none."""
    size = seen.shape[1]
    place = torch.arange(size, device=seen.device)[None, :, None]
    last = place.where(seen, -1).cummax(dim=1).values
    following = place.where(seen, size).flip(1).cummin(dim=1).values.flip(1)
    edge = last[:, :1]
    return torch.cat([torch.full_like(edge, -1), last], 1), torch.cat([following, torch.full_like(edge, size)], 1)


def _mean(batch: of.Series) -> Tensor:
    """(B, T, d), the mean of the seen values of the feature at other times."""
    values, seen = batch.y.where(batch.seen, 0.0), batch.seen.to(batch.y)
    count = seen.sum(1, keepdim=True) - seen
    return (values.sum(1, keepdim=True) - values) / count.clamp(min=1)


def _seasonal(batch: of.Series, around: Neighbours, period: float) -> Tensor:
    """(B, T, d), the value whole periods before, at most the last seen one."""
    t, latest = batch.t[..., None], around.times(around.before)
    periods = ((t - latest) / period - 1e-4).ceil().clamp(min=1)  # rounding must not cost a whole period
    past = torch.minimum(t - periods * period, latest)
    place = torch.arange(t.shape[1], device=t.device)[None, :, None]
    return Neighbours.at(batch, past).interpolated(past).where(around.before < place, around.values(around.before))
