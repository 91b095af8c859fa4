"""Window: one long series of anyone's, cut into windows whose end is to be forecast from their beginning."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import odeflow as of
from odeflow_data.names import amount, listed
from odeflow_data.own_data import OwnData, by_name, joined, several, suffix, unused
from odeflow_data.reading import Reading
from odeflow_data.rows import whole_batches
from odeflow_data.split import PARTS, Split

if TYPE_CHECKING:
    import polars as pl

    from odeflow_data.frame import Frame
    from odeflow_data.observations import Observations


class Window(OwnData):
    """Long series, an observation a row, cut into windows: `history` rows are seen, `horizon` rows are forecast.

    The first rows in time train, those after them validate, the last ones test: forecasts of a part are of its rows,
    what they see may lie before. Training also asks for what is seen. Rows may be in any order; an empty cell is a
    value that was not observed. Values are standardised by the training rows. The times of a window count from its
    first row to `span`. Losses are in these units, predictions in the file's.

    `odeflow predict` forecasts what comes after the end of its file: of each series one window, of the last `history`
    rows and `horizon` times that go on by the median step, or by the calendar where dates are regular by it. Its table
    has the series' id if there are several, the times, whether a row is of the forecast, the predicted values, and
    what was observed, `<column>_true`.

    Args:
        path: The file, CSV, TSV, Parquet, `.npy` or `.npz`; in Python a data frame or columns by name.
        time: The column of the times, numbers or dates.
        series: The column of the series' ids; by default all rows are of one series.
        columns: The columns of values; by default all without another role.
        ignore: Columns to ignore, where no others are chosen.
        history: Number of seen rows of a window.
        horizon: Number of forecast rows of a window.
        span: Time span of a window in batches. An untrained field has rates of about 1: a few units for each period of
            the series let it follow from the start.
        stride: Number of rows between the starts of consecutive windows.
        split: Which rows train, validate and test; in time by default, whole series at random with `split.group`.
        read: How cells are read.
        period: The period of the series in the unit of `read.time_unit`, such as 7 for a week of days, for the seasonal
            baseline; by default it has none.
        standardise: Whether values are standardised.
        batch_size: Number of windows in a batch.

    Raises:
        SettingError: An option is out of range.
        DataError: A file or column does not exist, or a cell is malformed.

    Example:
        >>> data = Window({"t": range(100), "y": range(100)}, time="t", history=8, horizon=4)
        >>> data.dim
        1
    """

    from_start = True

    def __init__(
        self,
        path: str | Any,
        time: str,
        series: str | None = None,
        columns: list[str] | None = None,
        ignore: list[str] | None = None,
        history: int = 48,
        horizon: int = 12,
        span: float = 1.0,
        stride: int = 1,
        split: Split = Split(),
        read: Reading = Reading(),
        period: float | None = None,
        standardise: bool = True,
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, history=history, horizon=horizon, stride=stride, batch_size=batch_size)
        read.refuse(
            self, missing="an empty cell is a value that was not observed", memory="all series are held in memory"
        )
        of.check_range(self, "(0, inf)", span=span, period=period)
        self.time, self.series, self.period, self.batch_size = time, series, period, batch_size
        self.history, self.horizon, self.span, self.stride = history, horizon, span, stride
        self.begin(path, columns, {"time": [time], "series": several(series)}, None, ignore, split, read, standardise)

    def setup(self, stage: str) -> None:
        whole = self._read(self.frame)
        if stage == "predict":
            self.continued = self._continued(whole)
            self._set(self.continued)
            self.predicted = torch.from_numpy(self.continued.offsets[:-1])
            return
        parts = self.split.parts(self.frame, whole.rows, order=whole.t)
        if self.units is None:
            self.units = self._fitted(whole, parts == 0)
        for name, path in self.split.files.items():
            other = self._read(self.open(path))
            whole, parts = whole.beside(other), np.append(parts, np.full(len(other.t), PARTS.index(name)))
        self._set(whole)
        self.train = self._starts(whole, parts == 0, history=parts == 0)
        self.repeats = self.split.val == 0 and 1 not in parts
        self.val, self.test = (self._starts(whole, parts == part) for part in (0 if self.repeats else 1, 2))
        for name, starts in (("train", self.train), ("validate", self.val), ("test", self.test)):
            if not len(starts) and not (name == "test" and self.split.test == 0):
                raise of.DataError(
                    f"{self.frame.origin}: none of the {len(whole.t):,} rows can {name} in windows of "
                    f"history={self.history} and horizon={self.horizon} in which something is seen and something to "
                    "forecast. Set a shorter history or horizon, or other shares by --data.split.val and "
                    "--data.split.test"
                )
        if stage in ("fit", "test"):
            self.say(self._summary(whole))

    def _read(self, frame: "Frame") -> "Observations":
        """The rows of a file, sorted by series and time."""
        from odeflow_data.observations import Observations

        return Observations.of(frame, self.features, self.time, self.series, self.read, self.units)

    def _starts(
        self, whole: "Observations", part: NDArray[np.bool_], history: NDArray[np.bool_] | None = None
    ) -> Tensor:
        """The first rows of the windows of a part.

        Args:
            whole: All rows.
            part: (M,), which of them may be forecast.
            history: (M,), which of them may be seen; by default all.
        """
        length = self.history + self.horizon
        first = np.arange(max(len(part) - length + 1, 0))
        middle, end = first + self.history, first + length
        valid = (_count(part, middle, end) == self.horizon) & (whole.codes[first] == whole.codes[end - 1])
        if history is not None:
            valid &= _count(history, first, middle) == self.history
        starts = np.flatnonzero(valid)
        place = np.arange(len(starts))
        run = np.maximum.accumulate(np.where(np.diff(starts, prepend=-2) > 1, place, 0))  # of consecutive starts
        starts = starts[(place - run) % self.stride == 0]
        seen, middle = whole.observed, starts + self.history
        kept = (_count(seen, starts, middle) > 0) & (_count(seen, middle, middle + self.horizon) > 0)
        return torch.from_numpy(starts[kept])

    def _continued(self, whole: "Observations") -> "Observations":
        """The last rows of each series, which are seen, and the times of the forecast, of which nothing is known."""
        short = np.flatnonzero(whole.lengths < max(self.history, 2))
        if len(short):
            which = f" of the series {whole.names[short[0]]}" if self.series else ""
            raise of.DataError(
                f"{self.frame.origin}: a forecast needs history={self.history} rows, two at least; there are "
                f"{whole.lengths[short[0]]}{which}"
            )
        t, y = [], []
        for first, end in zip(whole.offsets[:-1], whole.offsets[1:], strict=True):
            later = self._later(whole.t[first:end])
            t += [whole.t[end - self.history : end], later]
            y += [whole.y[end - self.history : end], np.full((self.horizon, whole.y.shape[1]), np.nan)]
        offsets = (self.history + self.horizon) * np.arange(len(whole.names) + 1)
        return whole._replace(t=np.concatenate(t), y=np.concatenate(y), offsets=offsets)

    def _later(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """(horizon,), the times after those of a series, (M,)."""
        from odeflow_data.continuation import continued
        from odeflow_data.frame import Frame

        unit = self.read.time_unit
        later = continued(self.frame.as_times(self.time, t, unit), self.horizon)
        return Frame(later.to_frame(self.time).lazy(), self.frame.origin).times(self.time, unit).values

    # Units

    def _fitted(self, whole: "Observations", train: NDArray[np.bool_]) -> of.Units:
        """Units of the training rows, and a window's span."""
        steps = np.diff(whole.t)[np.diff(whole.codes) == 0]
        if not len(steps):
            raise of.DataError(
                f"{self.frame.origin} has too few rows, {len(whole.t)}, for windows of history={self.history} and "
                f"horizon={self.horizon}"
            )
        length = float(np.median(steps)) * (self.history + self.horizon - 1)
        shift, scale = self.moments(whole.y[train], self.features, "rows")
        return of.Units(shift, scale, unit=length / self.span, features=tuple(self.features), clock=whole.clock)

    def _set(self, whole: "Observations") -> None:
        """Keeps the rows in the units of batches."""
        values = torch.from_numpy(whole.y)
        self.observed = ~values.isnan()
        self.y = self.known.standardised(values.nan_to_num(0.0)).masked_fill(~self.observed, 0.0).float()
        self.t = torch.from_numpy(whole.t / self.known.unit)

    def _summary(self, whole: "Observations") -> str:
        """The windows of each part, the series, its columns and units, in one line."""
        counts = [len(self.train), 0 if self.repeats else len(self.val), len(self.test)]
        each = f" of {len(whole.names)} series" if self.series else ""
        order = None if self.split.group else self.time
        facts = [f"{self.frame.origin}: {self.split.summary(counts, 'windows', order)}"]
        facts += [f"each of {self.history} rows seen and {self.horizon} forecast"]
        clock = whole.clock or "the file's numbers"
        facts += [f"{len(whole.t):,} rows{each}, {whole.t.min():g} to {whole.t.max():g} in {clock}"]
        facts += [f"{amount(self.dim, 'columns')}: {listed(self.features)}"]
        missing = np.isnan(whole.y).mean()
        facts += [f"{100 * missing:.3g} % of the cells empty"] if missing else []
        facts += whole.order
        return "; ".join([*facts, "standardised" if self.standardise else "in the file's units"])

    # Batches

    def train_dataloader(self) -> DataLoader[of.Series]:
        return self._loader(self.train, whole=True, shuffle=True)

    def val_dataloader(self) -> DataLoader[of.Series]:
        return self._loader(self.val)

    def test_dataloader(self) -> DataLoader[of.Series]:
        if not len(self.test):
            self.split.refuse_test(self.frame.origin, "windows")
        return self._loader(self.test)

    def predict_dataloader(self) -> DataLoader[of.Series]:
        return self._loader(self.predicted)

    def table(self, predictions: Sequence[Any]) -> "pl.DataFrame":
        found = {suffix(name): joined(each).flatten(0, 1).numpy() for name, each in by_name(predictions).items()}
        rows, count = self.continued, len(next(iter(found.values())))
        names = [rows.names[code] for code in rows.codes[:count]]
        features = self.known.features or self.features
        forecast = unused("forecast", (self.time, *several(self.series), *features))
        keys = {self.series: self.frame.as_ids(self.series, names)} if self.series else {}
        keys |= {
            self.time: self.frame.as_times(self.time, rows.t[:count], self.read.time_unit),
            forecast: np.arange(count) % (self.history + self.horizon) >= self.history,
        }
        return self.values_table(keys, found, rows.y[:count])

    def window(self, starts: Tensor, whole: bool) -> of.Series:
        """The windows that begin in rows (B,); `whole`: what is seen is to be predicted, too."""
        rows = starts[:, None] + torch.arange(self.history + self.horizon)
        observed, t = self.observed[rows], self.t[rows]
        early = (torch.arange(rows.shape[1]) < self.history)[:, None]
        target = observed if whole else observed & ~early
        return of.Series((t - t[:, :1]).float(), self.y[rows], observed & early, target)

    def _loader(self, starts: Tensor, whole: bool = False, shuffle: bool = False) -> DataLoader[of.Series]:
        return whole_batches(_Windows(self, starts, whole), self.batch_size, shuffle)


class _Windows(Dataset[of.Series]):
    """Windows of a series, cut on demand."""

    def __init__(self, data: Window, starts: Tensor, whole: bool) -> None:
        self.data, self.starts, self.whole = data, starts, whole

    def __len__(self) -> int:
        return len(self.starts)

    def __getitems__(self, indices: list[int]) -> of.Series:
        """A batch; called by DataLoader instead of `__getitem__`."""
        return self.data.window(self.starts[indices], self.whole)


def _count(rows: NDArray[np.bool_], first: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M,), how many rows are true from each first one to before each end."""
    total = np.concatenate([[0], np.cumsum(rows)])
    return total[end] - total[first]
