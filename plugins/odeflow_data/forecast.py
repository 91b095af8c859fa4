"""Forecast: one measured series, whose first part is known and whose rest is predicted."""

from abc import ABC

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.pieces import Pieces
from odeflow_data.rows import repeated

EVEN = 0.1
"""Largest deviation of a piece's times from an even grid, as a fraction of a step: clocks count milliseconds."""


class Forecast(of.DataModule, ABC):
    """One series of measurements: the first fraction `known` trains, the rest is forecast.

    All batches are `Series`. Training takes random evenly spaced pieces of what is known, their times counted
    from their beginning; validation all that is known, as one trajectory; test and prediction what follows, from the
    last known measurement on, so that to persist in the first state of the batch is the baseline. A subclass reads
    the measurements in `setup` and sets these.

    Attributes:
        t: (N,), the times.
        y: (N, d), the measurements.

    Args:
        known: Fraction of the measurements for training.
        batch_time: Number of measurements in a piece.
        batch_size: Number of pieces in a batch.
        steps: Number of batches in an epoch.

    Raises:
        SettingError: An option is out of range.
    """

    t: Tensor
    y: Tensor

    def __init__(self, known: float, batch_time: int, batch_size: int, steps: int) -> None:
        super().__init__()
        of.check_range(self, "(0, 1)", known=known)
        of.check_least(self, 2, batch_time=batch_time)
        of.check_least(self, 1, batch_size=batch_size, steps=steps)
        self.known, self.batch_time, self.batch_size, self.steps = known, batch_time, batch_size, steps

    @property
    def split(self) -> int:
        """Number of known measurements; at least one is left to forecast."""
        return min(round(self.known * len(self.t)), len(self.t) - 1)

    def train_dataloader(self) -> DataLoader[object]:
        t, starts = even_pieces(self.t[: self.split], self.batch_time)
        if not len(starts):
            raise of.DataError(
                f"{type(self).__name__}: no {self.batch_time} of the {self.split} known measurements in a row are "
                "evenly spaced. Set a smaller batch_time, or a larger share known"
            )
        return DataLoader(Pieces(t, self.y, starts, self.batch_size, self.steps), batch_size=None)

    def val_dataloader(self) -> DataLoader[object]:
        return self._whole(slice(None, self.split), first_only=False)

    def test_dataloader(self) -> DataLoader[object]:
        return self._whole(slice(self.split - 1, None), first_only=True)

    def _whole(self, part: slice, first_only: bool) -> DataLoader[object]:
        return repeated(of.Series.observed(self.t[part], self.y[None, part], first_only))


def even_pieces(t: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The starts of evenly spaced pieces, and their common times.

    Args:
        t: (N,), increasing times, in which some measurements may be left out.
        length: Number of measurements in a piece.

    Returns:
        The times of a piece from 0 on, (length,), and the starts, (S,).
    """
    gaps = t.diff()
    step = gaps[gaps < 1.5 * gaps.median()].mean() if len(gaps) else gaps.sum()
    grid = step * torch.arange(length)
    if len(t) < length:
        return grid, torch.arange(0)
    pieces = t.unfold(0, length, 1)
    departure = (pieces - pieces[:, :1] - grid).abs().amax(dim=1)
    return grid, (departure <= EVEN * step).nonzero()[:, 0]
