"""Window: one long series of anyone's, cut into windows whose end is to be forecast from their beginning."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import odeflow as of
from odeflow_data.own_data import OwnData, joined, several, shortly, unused

if TYPE_CHECKING:
    import polars as pl


class Window(OwnData):
    """One long series, an observation a row, cut into windows: `history` rows are seen, `horizon` rows are forecast.

    The first rows train, those after them validate, the last ones test: forecasts of a part are of its rows, what they
    see may lie before it. Training also asks for what is seen. Rows may be in any order of time; an empty cell is a
    value that was not observed. Values are standardised by the training rows. The times of a window count from its
    first row, and its span is 1. Losses are in these units, predictions in the file's.

    `odeflow predict` forecasts what comes after the end of its file: one window, of the last `history` rows and
    `horizon` times that go on by the median step. Its table has the times, whether a row is of the forecast, and the
    predicted values.

    Args:
        path: The file, CSV, TSV, Parquet, `.npy` or `.npz`; in Python a data frame or columns by name.
        time: The column of the times, numbers or dates.
        columns: The columns of values; by default all without another role.
        ignore: Columns to ignore.
        history: Number of seen rows of a window.
        horizon: Number of forecast rows of a window.
        stride: Number of rows between the starts of consecutive windows.
        time_unit: Unit of dates and durations; numbers are used as they are.
        standardise: Whether values are standardised.
        batch_size: Number of windows in a batch.
        val: Share of the rows that validate.
        test: Share of the rows that test.
        key: Name of the array in a `.npz` file that holds several.

    Raises:
        SettingError: An option is out of range.
        DataError: A file or column does not exist, or a cell is malformed.

    Example:
        >>> data = Window({"t": range(100), "y": range(100)}, time="t", history=8, horizon=4)
        >>> data.dim
        1
    """

    def __init__(
        self,
        path: str,
        time: str,
        columns: list[str] | None = None,
        ignore: list[str] | None = None,
        history: int = 48,
        horizon: int = 12,
        stride: int = 1,
        time_unit: str = "days",
        standardise: bool = True,
        batch_size: int = 64,
        val: float = 0.1,
        test: float = 0.2,
        key: str | None = None,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, history=history, horizon=horizon, stride=stride, batch_size=batch_size)
        if not (val > 0 and test > 0 and val + test < 1):
            raise of.SettingError(
                f"Window: val and test must be positive and leave a share to train on; got {val} and {test}"
            )
        self.path, self.key, self.time, self.time_unit, self.standardise = path, key, time, time_unit, standardise
        self.history, self.horizon, self.stride, self.batch_size = history, horizon, stride, batch_size
        self.val_share, self.test_share = val, test
        self.frame = self.open(path)
        self.frame.require([time], "time")
        self.features = self.columns(self.frame, columns, [time, *several(ignore)], "columns")
        self.settle(columns=self.features)
        self.dim = len(self.features)

    def setup(self, stage: str) -> None:
        features = (self.units.features if self.units else ()) or tuple(self.features)
        self.frame.require(features, "columns")
        times = self.frame.times(self.time, self.time_unit)
        order = np.argsort(times.values, kind="stable")
        t, y = times.values[order], self.frame.numbers(features)[order]
        again = np.flatnonzero(np.diff(t) == 0)
        if len(again):
            rows = sorted(int(row) + 1 for row in order[again[0] : again[0] + 2])
            raise of.DataError(
                f"{self.frame.origin}: {len(again):,} rows have a time that another has, first rows {rows[0]} and "
                f"{rows[1]}. Leave them out; many series with an id are for SeriesTable"
            )
        if stage == "predict":
            self.times, known = self._continued(t, y)
            self._set(self.times, known, self.units or of.Units())
            self.predicted = torch.zeros(1, dtype=torch.int64)
            return
        ends = self._ends(len(t))
        if self.units is None:
            self.units = self._fitted(t, y[: ends[0]], times.clock)
        self._set(t, y, self.units)
        self.train, self.val, self.test = (self._starts(*part) for part in zip((0, *ends[:-1]), ends, strict=True))
        for name, starts in (("train", self.train), ("validate", self.val), ("test", self.test)):
            if not len(starts):
                raise of.DataError(
                    f"{self.frame.origin}: none of the {len(t):,} rows can {name} in windows of history={self.history} "
                    f"and horizon={self.horizon} in which something is seen and something to forecast. Set a shorter "
                    "history or horizon, or other shares"
                )
        if stage == "fit":
            self.say(self._summary(t, times.clock))

    def _ends(self, count: int) -> tuple[int, int, int]:
        """Where the rows of training, validation and test end."""
        test = round(self.test_share * count)
        val = round(self.val_share * count)
        return count - val - test, count - test, count

    def _starts(self, first: int, end: int) -> Tensor:
        """The first rows of the windows whose forecasts are of rows from `first` to `end`."""
        places = range(max(first - self.history, 0), end - self.history - self.horizon + 1, self.stride)
        starts = torch.tensor(places, dtype=torch.int64)
        seen = self.observed.any(dim=1)
        counts = torch.cat([torch.zeros(1, dtype=torch.int64), seen.cumsum(0)])
        middle = starts + self.history
        kept = (counts[middle] > counts[starts]) & (counts[middle + self.horizon] > counts[middle])
        return starts[kept]

    def _continued(self, t: Any, y: Any) -> tuple[Any, Any]:
        """The last rows that are seen, and the times of the forecast, of which nothing is known."""
        if len(t) < max(self.history, 2):
            raise of.DataError(
                f"{self.frame.origin}: a forecast needs history={self.history} rows, two at least; there are {len(t)}"
            )
        later = t[-1] + np.median(np.diff(t)) * np.arange(1, self.horizon + 1)
        unknown = np.full((self.horizon, y.shape[1]), np.nan)
        return np.concatenate([t[-self.history :], later]), np.concatenate([y[-self.history :], unknown])

    # Units

    def _fitted(self, t: Any, y: Any, clock: str) -> of.Units:
        """Units of the training rows, and a window's span."""
        if len(t) < 2:
            raise of.DataError(f"{self.frame.origin} has too few rows: {len(t)}")
        span = float(np.median(np.diff(t))) * (self.history + self.horizon - 1)
        shift, scale = self.moments(y, "rows")
        return of.Units(shift, scale, unit=span, features=tuple(self.features), clock=clock)

    def _set(self, t: Any, y: Any, units: of.Units) -> None:
        """Keeps the rows in these units."""
        values = torch.from_numpy(y)
        self.observed = ~values.isnan()
        self.y = units.standardised(values.nan_to_num(0.0)).masked_fill(~self.observed, 0.0).float()
        self.t = torch.from_numpy(t / units.unit)

    def _summary(self, t: Any, clock: str) -> str:
        """The windows of each part, the series, its columns and units, in one line."""
        counts = f"{len(self.train):,} windows train, {len(self.val):,} validate, {len(self.test):,} test"
        shape = f"each of {self.history} rows seen and {self.horizon} forecast"
        told = [f"{self.frame.origin}: {counts}, split by {self.time}, {shape}"]
        clock = clock or "the file's numbers"
        told += [f"{len(t):,} rows, {t[0]:g} to {t[-1]:g} in {clock}"]
        told += [f"{self.dim} columns: {shortly(self.features)}"]
        missing = 1 - float(self.observed.float().mean())
        told += [f"{100 * missing:.3g} % of the cells empty"] if missing else []
        return "; ".join([*told, "standardised" if self.standardise else "in the file's units"])

    # Batches

    def train_dataloader(self) -> DataLoader[of.Series]:
        return self._loader(self.train, whole=True, shuffle=True)

    def val_dataloader(self) -> DataLoader[of.Series]:
        return self._loader(self.val)

    def test_dataloader(self) -> DataLoader[of.Series]:
        return self._loader(self.test)

    def predict_dataloader(self) -> DataLoader[of.Series]:
        return self._loader(self.predicted)

    def table(self, predictions: Sequence[Any]) -> "pl.DataFrame":
        import polars as pl

        (values,) = joined(predictions).numpy()
        features = (self.units.features if self.units else ()) or tuple(self.features)
        forecast = unused("forecast", (self.time, *features))
        return pl.DataFrame(
            {
                self.time: self.frame.as_times(self.time, self.times, self.time_unit),
                forecast: np.arange(len(values)) >= self.history,
            }
            | dict(zip(features, values.T, strict=True))
        )

    def window(self, starts: Tensor, whole: bool) -> of.Series:
        """The windows that begin in rows (B,); `whole`: what is seen is to be predicted, too."""
        rows = starts[:, None] + torch.arange(self.history + self.horizon)
        observed, t = self.observed[rows], self.t[rows]
        early = (torch.arange(rows.shape[1]) < self.history)[:, None]
        target = observed if whole else observed & ~early
        return of.Series((t - t[:, :1]).float(), self.y[rows], observed & early, target)

    def _loader(self, starts: Tensor, whole: bool = False, shuffle: bool = False) -> DataLoader[of.Series]:
        windows = _Windows(self, starts, whole)
        return DataLoader(windows, batch_size=self.batch_size, shuffle=shuffle, collate_fn=_together)


class _Windows(Dataset[of.Series]):
    """Windows of a series, cut when they are asked for."""

    def __init__(self, data: Window, starts: Tensor, whole: bool) -> None:
        self.data, self.starts, self.whole = data, starts, whole

    def __len__(self) -> int:
        return len(self.starts)

    def __getitems__(self, indices: list[int]) -> of.Series:
        """A batch; called by DataLoader instead of `__getitem__`."""
        return self.data.window(self.starts[indices], self.whole)


def _together(windows: Any) -> Any:
    """The batch, unchanged: its windows are already collated."""
    return windows
