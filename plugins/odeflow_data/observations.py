"""Observations: the rows of a table as series, in the order of time."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import odeflow as of
from odeflow_data.frame import Frame
from odeflow_data.names import listed
from odeflow_data.reading import Reading


class Observations(NamedTuple):
    """The rows of a table, by series and in the order of time.

    Attributes:
        t: (M,), float64.
        y: (M, d), float64; NaN where nothing was observed.
        rows: (M,), which rows of the file they are, from 0 on.
        offsets: (N + 1,), where each series begins, and the end.
        names: (N,), the series' ids in the file; "" for the only series of a file without ids.
        clock: What the times count.
    """

    t: NDArray[np.float64]
    y: NDArray[np.float64]
    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]
    names: tuple[str, ...]
    clock: str

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,), the number of times of each series."""
        return np.diff(self.offsets)

    @property
    def codes(self) -> NDArray[np.int64]:
        """(M,), the number of the series of each row."""
        return np.repeat(np.arange(len(self.names)), self.lengths)

    @property
    def order(self) -> list[str]:
        """What a summary says of the rows' order: a phrase if they were not in that of time, otherwise none."""
        sorted_ = (np.diff(self.rows) > 0) | (np.diff(self.codes) != 0)
        return [] if sorted_.all() else ["rows sorted by time"]

    def overlap(self, trains: NDArray[np.bool_]) -> float:
        """The fraction of neighbouring rows outside training that a training series has too, at the same times.

        Args:
            trains: (M,), which rows train.
        """
        import polars as pl

        row = np.column_stack([self.t, self.y])
        inner = np.diff(self.codes) == 0
        pairs = pl.from_numpy(np.hstack([row[:-1], row[1:]])[inner]).hash_rows().to_numpy()
        known = trains[:-1][inner]
        return 0.0 if known.all() else float(np.isin(pairs[~known], pairs[known]).mean())

    @property
    def observed(self) -> NDArray[np.bool_]:
        """(M,), whether anything was observed in each row."""
        return np.array(~np.isnan(self.y).all(axis=1))

    @classmethod
    def of(
        cls,
        frame: Frame,
        features: Sequence[str],
        time: str,
        series: str | None,
        read: Reading,
        known: of.Units | None = None,
        observed: bool = True,
    ) -> "Observations":
        """The observations in a file.

        Args:
            frame: The file.
            features: The columns of values.
            time: The column of times.
            series: The column of the series' ids; None if all rows are of one series.
            read: How cells are read.
            known: The units of a model, whose columns and unit of time are read.
            observed: Whether something must have been observed of each series. Otherwise columns of values may be
                missing, as for samples at given times.

        Raises:
            DataError: A column does not exist, a cell is malformed, times do not count what the model's do, two rows
                have the same series and time, or nothing was observed of a series.
        """
        features = (known.features if known else ()) or features
        if observed:
            frame.require(features, "columns")
        frame.require([time], "time")
        t, clock = frame.times(time, read.time_unit)
        if known is not None and known.features and clock != known.clock:
            raise of.DataError(
                f"{frame.origin}: column {time!r} counts {clock or 'plain numbers'}, but the model was trained on "
                f"{known.clock or 'plain numbers'}. Give times of that kind, and leave out --data.read.time_unit"
            )
        y = np.full((len(t), len(features)), np.nan)
        there = [number for number, name in enumerate(features) if name in frame.names]
        if there:
            y[:, there] = frame.numbers([features[number] for number in there])
        if series is None:
            codes, names = np.zeros(len(t), np.int64), ("",)
        else:
            frame.require([series], "series")
            codes, names = frame.classes(series)
        order = np.lexsort((t, codes))
        t, codes, y = t[order], codes[order], y[order]
        start = np.append(True, (np.diff(codes) != 0) | (np.diff(t) != 0))
        if not start.all():
            if read.duplicates == "refuse":
                _refuse(frame, start, order, names if series else None, codes)
            t, codes, y, order = t[start], codes[start], _means(y, np.flatnonzero(start)), order[start]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(codes))])
        empty = np.flatnonzero(np.add.reduceat(~np.isnan(y).all(axis=1), offsets[:-1]) == 0)
        if len(empty) and observed:
            which = f" of the series {listed([names[code] for code in empty])}" if series else ""
            raise of.DataError(
                f"{frame.origin}: nothing was observed{which}: all cells of its values are empty. Leave it out"
            )
        return cls(t, y, order, offsets, names, clock)

    def beside(self, other: "Observations") -> "Observations":
        """These series, and then those of another file."""
        return Observations(
            np.concatenate([self.t, other.t]),
            np.concatenate([self.y, other.y]),
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.offsets, len(self.t) + other.offsets[1:]]),
            (*self.names, *other.names),
            self.clock,
        )


def _refuse(
    frame: Frame,
    start: NDArray[np.bool_],
    order: NDArray[np.int64],
    names: Sequence[str] | None,
    codes: NDArray[np.int64],
) -> None:
    """Raises, since some rows have the series and time of those before them."""
    again = np.flatnonzero(~start)
    rows = sorted(frame.row(row) for row in order[again[0] - 1 : again[0] + 1])
    which = f" of the series {names[int(codes[again[0]])]}" if names else ""
    more = f"; {len(again):,} rows repeat a time" if len(again) > 1 else ""
    raise of.DataError(
        f"{frame.origin}: rows {rows[0]} and {rows[1]}{which} have the same time{more}. Leave them out, or average "
        "them by --data.read.duplicates mean"
        + ("" if names else "; if the file holds several series, name the column of their ids by --data.series")
    )


def _means(y: NDArray[np.float64], start: NDArray[np.int64]) -> NDArray[np.float64]:
    """The means of what was observed in rows from each start to the next."""
    counts = np.add.reduceat(~np.isnan(y), start)
    sums = np.add.reduceat(np.nan_to_num(y), start)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
