"""SeriesTable: anyone's time series in a table of one row an observation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.own_data import OwnData, joined, several, shortly, unused
from odeflow_data.series import Mode, SeriesData, batches, padded, random_split

if TYPE_CHECKING:
    import polars as pl

    from odeflow_data.frame import Frame


class Observations(NamedTuple):
    """The rows of a table, by series and in the order of time.

    Attributes:
        t: (M,), float64.
        y: (M, d), float64; NaN where nothing was observed.
        offsets: (N + 1,), where each series begins, and the end.
        label: (N,), the class of each series; None where there are no classes.
        names: (N,), the series' ids in the file.
        clock: What the times count.
    """

    t: NDArray[np.float64]
    y: NDArray[np.float64]
    offsets: NDArray[np.int64]
    label: NDArray[np.int64] | None
    names: tuple[str, ...]
    clock: str


class SeriesTable(OwnData, SeriesData):
    """Time series with times of their own, one observation a row: columns of the series' id, the time, and values.

    Series are split at random into training, validation and test. Rows may be in any order; an empty cell is a value
    that was not observed. Values are standardised by mean and standard deviation of the training series, times are
    mapped to [0, 1]; the model keeps both, and the columns: later files are read alike. Losses are in these units,
    predictions and samples in the file's.

    `odeflow predict` takes all series of its file, in the order of their ids, and all times, those of empty cells too;
    of each series it sees what `mode` and `observed` say. Its table has a row for each series and time: the id, the
    time, whether anything was seen there, and the predicted values.

    Args:
        path: The file, CSV, TSV, Parquet, `.npy` or `.npz`; in Python a data frame or columns by name.
        series: The column of the series' ids, text or whole numbers.
        time: The column of the times, numbers or dates.
        columns: The columns of values; by default all without another role.
        label: A column of classes, constant within each series.
        ignore: Columns to ignore.
        time_unit: Unit of dates and durations; numbers are used as they are.
        duplicates: Treatment of rows with the same series and time: "refuse" raises an error that names them, "mean"
            averages what was observed.
        mode: The prediction task: all values from a fraction of the times, or the end from the beginning.
        observed: The fraction seen, of the times or of each series' time span.
        standardise: Whether values are standardised.
        scale_time: Whether all times are mapped to [0, 1].
        classes: The names of the classes in the order of their numbers; by default those in the file.
        batch_size: Number of series in a batch; the last one may be smaller.
        val: Fraction of the series for validation.
        test: Fraction of the series for testing.
        key: Name of the array in a `.npz` file that holds several.
        seed: Seed of all random numbers.

    Raises:
        SettingError: An option is out of range.
        DataError: A file or column does not exist, or a cell is malformed.

    Example:
        >>> data = SeriesTable({"id": [1, 1, 2], "t": [0.0, 1.0, 0.5], "y": [3.0, 4.0, 5.0]}, series="id", time="t")
        >>> data.dim
        1
    """

    def __init__(
        self,
        path: str,
        series: str,
        time: str,
        columns: list[str] | None = None,
        label: str | None = None,
        ignore: list[str] | None = None,
        time_unit: str = "days",
        duplicates: Literal["refuse", "mean"] = "refuse",
        mode: Mode = "interpolation",
        observed: float = 1.0,
        standardise: bool = True,
        scale_time: bool = True,
        classes: list[str] | None = None,
        batch_size: int = 50,
        val: float = 0.1,
        test: float = 0.2,
        key: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, mode, observed, seed)
        if duplicates not in ("refuse", "mean"):
            raise of.SettingError(f"SeriesTable: duplicates must be 'refuse' or 'mean'; got {duplicates!r}")
        self.path, self.key, self.series, self.time, self.label = path, key, series, time, label
        self.time_unit, self.duplicates, self.standardise, self.scale_time = (
            time_unit,
            duplicates,
            standardise,
            scale_time,
        )
        self.val_share, self.test_share = val, test
        self.frame = self.open(path)
        for option, name in (("series", series), ("time", time)):
            self.frame.require([name], option)
        self.features = self.columns(self.frame, columns, [series, time, label, *several(ignore)], "columns")
        self.settle(columns=self.features)
        self.dim = len(self.features)
        if label is not None:
            if classes is None:
                self.frame.require([label], "label")
                classes = list(self.frame.classes(label).names)
                self.settle(classes=classes)
            self.num_classes = len(classes)
        self.class_names = tuple(classes or ())

    def setup(self, stage: str) -> None:
        whole = self._observations(self.frame, known=stage != "predict")
        if stage == "predict":
            generator = torch.Generator().manual_seed(self.seed)
            batch = self._batch(whole, self.units or of.Units())
            shown, empty = self.shown(batch, generator), _exists(whole)[:, :, None] & ~batch.seen
            self.predicted, self.rows = shown._replace(target=shown.target | empty), whole
            return
        if self.units is None:
            self.units = self._fitted(whole)
        self.divide(self._batch(whole, self.units), self.val_share, self.test_share)
        if stage == "fit":
            self.say(self._summary(whole))

    def predict_dataloader(self) -> DataLoader[of.Series]:
        return batches(self.predicted, self.batch_size)

    def table(self, predictions: Sequence[Any]) -> "pl.DataFrame":
        import polars as pl

        rows, exists = self.rows, _exists(self.rows)
        lengths = np.diff(rows.offsets)
        every = (series for batch in predictions for series in batch)
        values = joined([series[:length] for series, length in zip(every, lengths, strict=False)]).numpy()
        count = len(values)
        features = (self.units.features if self.units else ()) or tuple(self.features)
        names = [rows.names[code] for code in np.repeat(np.arange(len(lengths)), lengths)[:count]]
        seen = unused("seen", (self.series, self.time, *features))
        return pl.DataFrame(
            {
                self.series: self.frame.as_ids(self.series, names),
                self.time: self.frame.as_times(self.time, rows.t[:count], self.time_unit),
                seen: self.predicted.seen.any(dim=2)[exists][:count].numpy(),
            }
            | dict(zip(features, values.T, strict=True))
        )

    # Reading

    def _observations(self, frame: "Frame", known: bool) -> Observations:
        """The rows of a file, sorted by series and time, with classes if these are known."""
        features = (self.units.features if self.units else ()) or tuple(self.features)
        frame.require(features, "columns")
        times = frame.times(self.time, self.time_unit)
        codes, names = frame.classes(self.series)
        y = frame.numbers(features)
        order = np.lexsort((times.values, codes))
        t, codes, y = times.values[order], codes[order], y[order]
        label = self._labels(frame, order, codes, names) if known and self.label is not None else None
        t, codes, y = self._unique(t, codes, y, names, order)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(codes))])
        empty = np.flatnonzero(np.add.reduceat(~np.isnan(y).all(axis=1), offsets[:-1]) == 0)
        if len(empty):
            raise of.DataError(
                f"{frame.origin}: nothing was observed of the series {shortly([names[code] for code in empty])}: "
                "all cells of its values are empty. Leave it out"
            )
        return Observations(t, y, offsets, label, names, times.clock)

    def _labels(
        self, frame: "Frame", order: NDArray[np.int64], codes: NDArray[np.int64], names: Sequence[str]
    ) -> NDArray[np.int64]:
        """(N,), the class of each series, which all its rows have."""
        assert self.label is not None
        frame.require([self.label], "label")
        label = frame.classes(self.label, (self.units.classes if self.units else ()) or self.class_names).codes[order]
        first = np.flatnonzero(np.diff(codes, prepend=-1))
        wrong = np.flatnonzero(label != label[first][codes])
        if len(wrong):
            name = names[int(codes[wrong[0]])]
            raise of.DataError(
                f"{frame.origin}: the series {name} has several classes in column {self.label!r}; each series has one"
            )
        return label[first]

    def _unique(
        self,
        t: NDArray[np.float64],
        codes: NDArray[np.int64],
        y: NDArray[np.float64],
        names: Sequence[str],
        order: NDArray[np.int64],
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """The rows with one of each series and time."""
        again = (np.diff(codes) == 0) & (np.diff(t) == 0)
        if not again.any():
            return t, codes, y
        if self.duplicates == "refuse":
            row = int(np.flatnonzero(again)[0])
            rows = sorted((int(order[row]) + 1, int(order[row + 1]) + 1))
            raise of.DataError(
                f"{self.frame.origin}: the series {names[codes[row]]} has {int(again.sum()):,} rows of a time that it "
                f"has already, first in rows {rows[0]} and {rows[1]}. Leave them out, or average them by "
                "--data.duplicates mean"
            )
        start = np.flatnonzero(np.concatenate([[True], ~again]))
        counts = np.add.reduceat(~np.isnan(y), start)
        sums = np.add.reduceat(np.nan_to_num(y), start)
        mean = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        return t[start], codes[start], mean

    # Units

    def _fitted(self, whole: Observations) -> of.Units:
        """Units of the training series' values, and of all times."""
        count = len(whole.names)
        generator = torch.Generator().manual_seed(self.seed)
        train, _, _ = random_split(count, self.val_share, self.test_share, generator, type(self).__name__)
        rows = np.repeat(np.isin(np.arange(count), train.numpy()), np.diff(whole.offsets))
        shift, scale = self.moments(whole.y[rows], "series")
        first, last = float(whole.t.min()), float(whole.t.max())
        if first == last:
            raise of.DataError(
                f"{self.frame.origin}: all times in column {self.time!r} are {first:g}; wanted are several"
            )
        origin, unit = (first, last - first) if self.scale_time else (0.0, 1.0)
        return of.Units(shift, scale, origin, unit, tuple(self.features), self.class_names, whole.clock)

    def _batch(self, whole: Observations, units: of.Units) -> of.Series:
        """All series in these units, padded to one length."""
        y = units.standardised(torch.from_numpy(whole.y)).numpy()
        t = (whole.t - units.origin) / units.unit
        label = None if whole.label is None else torch.from_numpy(whole.label)
        return padded(t, y, ~np.isnan(y), whole.offsets)._replace(label=label)

    def _summary(self, whole: Observations) -> str:
        """The series of each part, their lengths, columns and units, in one line."""
        lengths = np.diff(whole.offsets)
        missing = np.isnan(whole.y).mean()
        parts = ", ".join(
            f"{len(part.t)} series {verb}"
            for part, verb in ((self.train, "train"), (self.val, "validate"), (self.test, "test"))
        )
        told = [f"{self.frame.origin}: {parts}, split at random by seed {self.seed}"]
        told += [f"{lengths.min()} to {lengths.max()} times each, {self.dim} columns: {shortly(self.features)}"]
        told += [f"{100 * missing:.3g} % of the cells empty"] if missing else []
        clock = whole.clock or "the file's numbers"
        told += [f"time {self.time} in {clock}, {whole.t.min():g} to {whole.t.max():g}"]
        told += [f"classes of {self.label}: {shortly(self.class_names)}"] if self.label else []
        return "; ".join([*told, "standardised" if self.standardise else "in the file's units"])


def _exists(rows: Observations) -> torch.Tensor:
    """(N, T), which places of the padded series are rows of the file."""
    lengths = torch.from_numpy(np.diff(rows.offsets))
    return torch.arange(int(lengths.max())) < lengths[:, None]
