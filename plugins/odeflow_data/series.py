"""SeriesData: irregular time series in padded batches."""

from abc import ABC
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

import odeflow as of
from odeflow_data.rows import whole_batches
from odeflow_data.seen import Seen, thinned
from odeflow_data.shares import Shares

Divisor = Literal["range", "largest"]


class SeriesData(of.DataModule, ABC):
    """Time series whose batches are `Series`. Subclasses set the three parts in `setup`, most of them by `divide`.

    For interpolation the seen times are drawn anew for each training batch, unless `Seen.redraw` is False, and once, by
    the seed, for validation and test.

    Attributes:
        train: The training series.
        val: The validation series.
        test: The test series, also used for predictions.

    Args:
        batch_size: Number of series in a batch, in training and evaluation; the last one may be smaller.
        seen: The seen values and the targets.
        seed: Seed of all random numbers.

    Raises:
        SettingError: An option is out of range.
    """

    train: of.Series
    val: of.Series
    test: of.Series

    def __init__(self, batch_size: int, seen: Seen, seed: int) -> None:
        super().__init__()
        of.check_least(self, 1, batch_size=batch_size)
        self.batch_size, self.seen, self.seed = batch_size, seen, seed

    def divide(self, whole: of.Series, split: Shares, span: float | None = None) -> None:
        """Divides series at random into training, validation and test, and marks seen values and targets.

        Args:
            whole: All series; what was observed is seen.
            split: The fractions.
            span: As of `Seen`.

        Raises:
            DataError: A part would be empty.
        """
        generator = torch.Generator().manual_seed(self.seed)
        self.assign([whole.take(rows) for rows in split.rows(len(whole.t), generator, self)], generator, span)

    def assign(self, parts: Sequence[of.Series], generator: torch.Generator, span: float | None = None) -> None:
        """Sets training, validation and test, with the seen values and targets of each.

        Args:
            parts: The three parts.
            generator: Generator of the seen values of validation and test.
            span: As of `Seen`.
        """
        train, *others = parts
        self.val, self.test = (self.seen(part, generator, span) for part in others)
        self.train = train if self.seen.redrawn else self.seen(train, generator, span)

    def training_part(self) -> of.Series:
        """The training series, with seen values drawn once."""
        if not self.seen.redrawn:
            return self.train
        return thinned(self.train, self.seen.share, torch.Generator().manual_seed(self.seed))

    def train_dataloader(self) -> DataLoader[of.Series]:
        redrawn = self.seen.share if self.seen.redrawn else 1.0
        return batches(self.train, self.batch_size, redrawn, shuffle=True)

    def val_dataloader(self) -> DataLoader[of.Series]:
        return batches(self.val, self.batch_size)

    def test_dataloader(self) -> DataLoader[of.Series]:
        return batches(self.test, self.batch_size)


class _Collection(Dataset[of.Series]):
    """Series that are indexed by batch.

    Args:
        whole: All of them.
        redrawn: Fraction of the seen times that each batch draws anew.
    """

    def __init__(self, whole: of.Series, redrawn: float) -> None:
        self.whole, self.redrawn = whole, redrawn

    def __len__(self) -> int:
        return len(self.whole.t)

    def __getitems__(self, indices: list[int]) -> of.Series:
        """A batch; called by DataLoader instead of `__getitem__`."""
        return trimmed(thinned(self.whole.take(torch.tensor(indices)), self.redrawn))


def batches(whole: of.Series, batch_size: int, redrawn: float = 1.0, shuffle: bool = False) -> DataLoader[of.Series]:
    """All series in batches; the last may be smaller, so that none is lost.

    Args:
        whole: The series.
        batch_size: Number of series in a batch.
        redrawn: Fraction of the seen times that each batch draws anew.
        shuffle: Whether to reshuffle in each pass.
    """
    return whole_batches(_Collection(whole, redrawn), batch_size, shuffle)


def trimmed(batch: of.Series) -> of.Series:
    """The batch without trailing times that are padding in all series."""
    used = (batch.seen | batch.target).any(dim=2)
    if batch.covariates is not None:
        used = used | ~batch.covariates.isnan().all(dim=2)
    numbers = used.any(dim=0).nonzero()
    length = int(numbers.max()) + 1 if len(numbers) else 1
    over_time = {
        name: None if part is None else part[:, :length]
        for name, part in batch._asdict().items()
        if name in ("t", "y", "seen", "target", "covariates")
    }
    return batch._replace(**over_time)


def padded(t: NDArray[Any], y: NDArray[Any], exists: NDArray[Any], offsets: NDArray[Any]) -> of.Series:
    """Concatenated series as a padded batch.

    Args:
        t: (M,), the times, which increase within a series.
        y: (M, d), the values.
        exists: (M, d), bool: the observed values.
        offsets: (N + 1,), the index at which each series begins, and the end.

    Returns:
        N series whose observed values are seen and targets.
    """
    length = np.diff(offsets)[:, None]
    place = np.arange(length.max())
    rows = offsets[:-1, None] + np.minimum(place, length - 1)
    observed = torch.from_numpy(exists[rows] & (place < length)[:, :, None])
    values = torch.from_numpy(y.astype(np.float32)[rows]).masked_fill_(~observed, 0.0)
    return of.Series(torch.from_numpy(t[rows]).float(), values, observed, observed)


def scaled(whole: of.Series, units: of.Units) -> of.Series:
    """The series with standardised values, 0 where there are none.

    Args:
        whole: The series, with values in the file's units.
        units: The units of the standardised values.
    """
    observed = whole.seen | whole.target
    return whole._replace(y=units.standardised(whole.y).masked_fill(~observed, 0.0))


def ranges(whole: of.Series, divisor: Divisor = "range", unit: float = 1.0) -> of.Units:
    """Units that subtract the smallest value of each dimension and divide by its range or its largest value.

    A divisor of 0 is replaced by 1.

    Args:
        whole: The series.
        divisor: The divisor; divided by the range, values lie in [0, 1].
        unit: Unit of the times, which begin at 0.
    """
    observed = whole.seen | whole.target
    low = whole.y.masked_fill(~observed, torch.inf).amin(dim=(0, 1))
    high = whole.y.masked_fill(~observed, -torch.inf).amax(dim=(0, 1))
    low, high = low.masked_fill(low > high, 0.0), high.masked_fill(low > high, 0.0)  # where nothing was observed
    scale = high - low if divisor == "range" else high
    return of.Units(tuple(low.tolist()), tuple(scale.masked_fill(scale == 0, 1.0).tolist()), unit=unit)
