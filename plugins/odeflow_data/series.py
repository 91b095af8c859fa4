"""SeriesData: irregular time series in padded batches."""

from abc import ABC
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import odeflow as of
from odeflow_data.rows import together

Mode = Literal["interpolation", "extrapolation"]
Divisor = Literal["range", "largest"]


class SeriesData(of.DataModule, ABC):
    """Time series whose batches are `Series`. Subclasses set the three parts in `setup`, most of them by `divide`.

    Seen values and targets follow Rubanova. Interpolation: the model sees a random fraction of the observation times
    and predicts all values; the times are drawn anew for each training batch, and once, by the seed, for validation and
    test. Extrapolation: the model sees the values before a time and predicts the rest.

    Source: Rubanova, Chen & Duvenaud (2019), "Latent ODEs for Irregularly-Sampled Time Series", section 4.

    Attributes:
        train: The training series.
        val: The validation series.
        test: The test series, also used for predictions.

    Args:
        batch_size: Number of series in a batch, in training and evaluation; the last one may be smaller.
        mode: The prediction task: all values from a fraction of the times, or the end from the beginning.
        observed: The fraction seen: of the times for interpolation, of the time span for extrapolation.
        seed: Seed of all random numbers.

    Raises:
        SettingError: An option is out of range.
    """

    train: of.Series
    val: of.Series
    test: of.Series

    def __init__(self, batch_size: int, mode: Mode, observed: float, seed: int) -> None:
        super().__init__()
        name = type(self).__name__
        of.check_least(self, 1, batch_size=batch_size)
        of.check_least(self, 0, seed=seed)
        if not 0 < observed <= 1 or (mode == "extrapolation" and observed == 1):
            raise of.SettingError(f"{name}: observed must lie in (0, 1], and below 1 for extrapolation; got {observed}")
        self.batch_size, self.mode, self.observed, self.seed = batch_size, mode, observed, seed

    def divide(self, whole: of.Series, val: float, test: float, span: float | None = None) -> None:
        """Divides series at random into training, validation and test, and marks seen values and targets.

        Args:
            whole: All series; what was observed is seen or a target.
            val: Fraction for validation.
            test: Fraction for testing.
            span: The time span, from time 0, whose first part is seen; by default that of each series.

        Raises:
            DataError: A part would be empty.
        """
        generator = torch.Generator().manual_seed(self.seed)
        rows = random_split(len(whole.t), val, test, generator, type(self).__name__)
        self.assign([whole.take(part) for part in rows], generator, span)

    def assign(self, parts: Sequence[of.Series], generator: torch.Generator, span: float | None = None) -> None:
        """Sets training, validation and test, with the seen values and targets of each.

        Args:
            parts: The three parts.
            generator: Generator of the seen values of validation and test.
            span: As in `divide`.
        """
        if self.mode == "extrapolation":
            self.train, self.val, self.test = (extrapolation(part, self.observed, span) for part in parts)
        else:
            self.train = parts[0]
            self.val, self.test = (interpolation(part, self.observed, generator) for part in parts[1:])

    def shown(self, whole: of.Series, generator: torch.Generator) -> of.Series:
        """The series with seen values and targets according to `mode` and `observed`.

        Args:
            whole: The series; what was observed is seen.
            generator: Generator of the seen times, for interpolation.
        """
        if self.mode == "extrapolation":
            return extrapolation(whole, self.observed)
        return interpolation(whole, self.observed, generator)

    def train_dataloader(self) -> DataLoader[of.Series]:
        redrawn = self.observed if self.mode == "interpolation" else 1.0
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
        return trimmed(interpolation(self.whole.take(torch.tensor(indices)), self.redrawn))


def batches(whole: of.Series, batch_size: int, redrawn: float = 1.0, shuffle: bool = False) -> DataLoader[of.Series]:
    """All series in batches; the last may be smaller, so that none is lost.

    Args:
        whole: The series.
        batch_size: Number of series in a batch.
        redrawn: Fraction of the seen times that each batch draws anew.
        shuffle: Whether to reshuffle in each pass.
    """
    return DataLoader(_Collection(whole, redrawn), batch_size=batch_size, shuffle=shuffle, collate_fn=together)


def rows_of(whole: of.Series, rows: Tensor) -> of.Series:
    """The series with these indices, (B,)."""
    return whole.take(rows)


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


def interpolation(whole: of.Series, share: float, generator: torch.Generator | None = None) -> of.Series:
    """A random fraction of the seen times remains seen, at least one; the targets are unchanged.

    Args:
        whole: The series.
        share: The fraction of the seen times of each series.
        generator: Generator of the times; torch's by default.
    """
    if share == 1:
        return whole
    times = whole.seen.any(dim=2)
    chance = torch.rand(times.shape, generator=generator).masked_fill(~times, 2.0)
    rank = chance.argsort(dim=1).argsort(dim=1)
    count = (share * times.sum(dim=1, keepdim=True)).round().clamp(min=1)
    return whole._replace(seen=whole.seen & (rank < count)[:, :, None])


def extrapolation(whole: of.Series, share: float, span: float | None = None) -> of.Series:
    """The observations of the first part of the time span are seen, those of the rest are targets.

    Args:
        whole: The series; what was observed is seen.
        share: Length of the first part as a fraction of the time span.
        span: The time span, from time 0; by default from the first time of each series to its last.
    """
    first, last = (0.0, span) if span is not None else (whole.t[:, :1], whole.t[:, -1:])
    early = (whole.t < first + share * (last - first))[:, :, None]
    return whole._replace(seen=whole.seen & early, target=whole.seen & ~early)


def random_split(
    count: int, val: float, test: float, generator: torch.Generator, name: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The indices of the series for training, validation and testing.

    Args:
        count: Number of series.
        val: Fraction for validation.
        test: Fraction for testing.
        generator: The random generator.
        name: Name of the data, for messages.

    Raises:
        SettingError: A fraction is out of range.
        DataError: A part would be empty.
    """
    if not (val > 0 and test > 0 and val + test < 1):
        raise of.SettingError(
            f"{name}: val and test must be positive and leave a share to train on; got {val} and {test}"
        )
    sizes = (count - round(val * count) - round(test * count), round(val * count), round(test * count))
    if min(sizes) < 1:
        raise of.DataError(
            f"{name}: of {count} series, {sizes[0]} would train, {sizes[1]} validate and {sizes[2]} test; each part "
            "needs one. Give more series, or other shares by --data.val and --data.test"
        )
    train, val_rows, test_rows = torch.randperm(count, generator=generator).split(sizes)
    return train, val_rows, test_rows


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
