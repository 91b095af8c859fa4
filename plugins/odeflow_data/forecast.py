"""Forecast: one measured series, whose first part trains, and whose rest is predicted."""

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
    """One series of measurements: the first ones train, those after them validate, the rest is the test.

    All batches are `Series`. Training takes random evenly spaced pieces, their times counted from their beginning.
    Validation forecasts the last fraction `val`, before `known`, of all measurements, test and prediction what follows
    `known`, each from the measurement before it on, so that to persist in the first state of the batch is the
    baseline. A subclass reads the measurements in `setup` and sets these.

    Attributes:
        t: (N,), the times.
        y: (N, d), the measurements.

    Args:
        known: Fraction of the measurements before the test.
        val: Fraction of the measurements, the last known ones, for validation. With 0 validation repeats what trains.
        batch_time: Number of measurements in a piece.
        batch_size: Number of pieces in a batch.
        steps: Number of batches in an epoch.

    Raises:
        SettingError: An option is out of range.
    """

    t: Tensor
    y: Tensor

    def __init__(self, known: float, val: float, batch_time: int, batch_size: int, steps: int) -> None:
        super().__init__()
        of.check_range(self, "(0, 1)", known=known)
        of.check_range(self, f"[0, {known})", val=val)
        of.check_least(self, 2, batch_time=batch_time)
        of.check_least(self, 1, batch_size=batch_size, steps=steps)
        self.known, self.val, self.batch_time, self.batch_size, self.steps = known, val, batch_time, batch_size, steps

    @property
    def split(self) -> int:
        """Number of known measurements; at least one is left to forecast."""
        return min(round(self.known * len(self.t)), len(self.t) - 1)

    @property
    def trained(self) -> int:
        """Number of measurements that train; at least one of the known ones validates, unless `val` is 0."""
        return min(self.split - round(self.val * len(self.t)), self.split - (self.val > 0))

    def train_dataloader(self) -> DataLoader[object]:
        t, starts = even_pieces(self.t[: self.trained], self.batch_time)
        if not len(starts):
            raise of.DataError(
                f"{type(self).__name__}: no {self.batch_time} of the {self.trained} measurements in a row that train "
                "are evenly spaced. Set a smaller batch_time, or a larger share known"
            )
        return DataLoader(Pieces(t, self.y, starts, self.batch_size, self.steps), batch_size=None)

    def val_dataloader(self) -> DataLoader[object]:
        return self._forecast(self.trained - 1 if self.val else 0, self.split)

    def test_dataloader(self) -> DataLoader[object]:
        return self._forecast(self.split - 1, len(self.t))

    def _forecast(self, first: int, end: int) -> DataLoader[object]:
        return repeated(of.Series.observed(self.t[first:end], self.y[None, first:end], first_only=True))


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
