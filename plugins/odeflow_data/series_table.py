"""SeriesTable: anyone's time series in a table of one row an observation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.names import amount, listed
from odeflow_data.own_data import OwnData, by_name, classified, joined, several, suffix, unused
from odeflow_data.reading import Reading
from odeflow_data.seen import Seen
from odeflow_data.series import SeriesData, batches, padded, trimmed
from odeflow_data.split import PARTS, Split

SERIES = "series"
"""Name of the column of the series' names that a wide table has in predictions."""
OVERLAP = 0.2
"""The fraction of rows that may repeat those of training series before it is mentioned."""

if TYPE_CHECKING:
    import polars as pl

    from odeflow_data.frame import Frame
    from odeflow_data.observations import Observations


class SeriesTable(OwnData, SeriesData):
    """Time series with times of their own, one observation a row: columns of the series' id, the time, and values.

    Each series is in one of training, validation and test; split in time, they are in the order of their first times.
    Rows may be in any order; an empty cell is a value that was not observed. Values are standardised by mean and
    standard deviation of the training series, times are mapped to [0, 1]; the model keeps both, and the columns: later
    files are read alike. Losses are in these units, predictions and samples in the file's.

    Covariates are inputs of a model that predicts under them, such as a temperature or a dose: a column of each, known
    also at times at which values are to be predicted. They are numbers, standardised likewise.

    `odeflow predict` takes all series of its file, in the order of their ids, and all times, those of empty cells too;
    of each series it sees what `seen` says. Its table has a row for each series and time: the id, the
    time, whether anything was seen there, the predicted values, and what was observed, `<column>_true`. Of a model that
    predicts classes or outcomes each row also has the class of its series and the probability of each,
    `probability_<class>`, the outcomes, and what the file says of them; without values there is a row for each series.

    Args:
        path: The file, CSV, TSV, Parquet, `.npy` or `.npz`; in Python a data frame or columns by name.
        time: The column of the times, numbers or dates.
        series: The column of the series' ids, text or whole numbers. Without one the table is wide: each column is a
            series, which is named after it, and all of their values are of one kind.
        columns: The columns of values, in a wide table of series; by default all without another role.
        label: A column of classes, constant within each series.
        outcome: Columns of numbers to predict of each series as a whole, constant within it, such as a rating;
            standardised as values are.
        covariates: Columns of inputs over time; an empty cell is interpolated by the model.
        static: Columns of inputs that are constant within each series; no cell is empty.
        ignore: Columns to ignore, where no others are chosen.
        split: Which series train, validate and test.
        read: How cells are read.
        seen: The seen values and the targets.
        period: The period of the series in the unit of `read.time_unit`, such as 7 for a week of days, for the seasonal
            baseline; by default it has none.
        standardise: Whether values are standardised.
        scale_time: Whether all times are mapped to [0, 1].
        batch_size: Number of series in a batch; the last one may be smaller.

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
        path: str | Any,
        time: str,
        series: str | None = None,
        columns: list[str] | None = None,
        label: str | None = None,
        outcome: str | list[str] | None = None,
        covariates: str | list[str] | None = None,
        static: str | list[str] | None = None,
        ignore: list[str] | None = None,
        split: Split = Split(),
        read: Reading = Reading(),
        seen: Seen = Seen(share=1.0),
        period: float | None = None,
        standardise: bool = True,
        scale_time: bool = True,
        batch_size: int = 50,
    ) -> None:
        super().__init__(batch_size, seen, split.seed)
        read.refuse(
            self, missing="an empty cell is a value that was not observed", memory="all series are held in memory"
        )
        self.series, self.time, self.label, self.scale_time = series or SERIES, time, label, scale_time
        self.wide, self.chosen, self.ignored = series is None, columns, several(ignore)
        of.check_range(self, "(0, inf)", period=period)
        self.period = period
        self.outcome = several(outcome)
        if self.outcome:
            self.num_outputs = len(self.outcome)
        self.covariates, self.static = several(covariates), several(static)
        self.inputs = [*self.covariates, *self.static]
        if self.inputs:
            self.num_covariates = len(self.inputs)
        if self.wide and (label or self.outcome or self.inputs or split.group):
            raise of.SettingError(
                "SeriesTable: label, outcome, covariates, static and split.group are of tables with a row for each "
                "observation; name the column of the series' ids by --data.series"
            )
        self.begin(
            path,
            None if self.wide else columns,
            {
                "series": [self.series],
                "time": [time],
                "outcome": self.outcome,
                "covariates": self.covariates,
                "static": self.static,
            },
            label,
            None if self.wide else ignore,
            split,
            read,
            standardise,
        )
        if self.wide:
            self.settle(columns=columns, ignore=ignore)  # another file may have other series

    def open(self, source: Any) -> "Frame":
        frame = super().open(source)
        if not self.wide:
            return frame
        from odeflow_data.wide import Unpivoted

        return Unpivoted(frame, self.time, self.chosen, self.ignored)

    def setup(self, stage: str) -> None:
        whole = self._read(self.frame, observed=stage != "sample")
        self.drawn = stage == "sample"
        if self.drawn:
            self.predicted, self.rows = self._batch(self.frame, whole), whole
            return
        if stage == "predict":
            batch, generator = self._batch(self.frame, whole), torch.Generator().manual_seed(self.seed)
            shown, empty = self.seen(batch, generator), _exists(whole)[:, :, None] & ~batch.seen
            self.predicted, self.rows = shown._replace(target=shown.target | empty), whole
            return
        if self.wide and self.units is None:  # later files may lack them
            super().open(self.path).require(self.ignored, "ignore")
        numbers = self.split.parts(self.frame, whole.rows, whole.codes)
        own = np.bincount(numbers[whole.offsets[:-1]], minlength=3)
        counts = [1 if name in self.split.files else int(count) for name, count in zip(PARTS, own, strict=True)]
        self.split.check(self.frame.origin, counts, "series")
        if self.units is None:
            self.units = self._fitted(whole, numbers == 0)
        parts = self._parts(whole, numbers[whole.offsets[:-1]])
        counts = [len(part.t) for part in parts]
        if stage == "fit":
            labels = [part.label for part in parts if part.label is not None]
            self.require_trained([each.bincount(minlength=len(self.class_names)).tolist() for each in labels])
        parts[1] = parts[1] if counts[1] else parts[0]
        self.assign(parts, torch.Generator().manual_seed(self.seed))
        if stage in ("fit", "test"):
            self.say(self._summary(whole, counts))
        if stage == "fit":
            share = whole.overlap(numbers == 0)
            if share > OVERLAP:
                self.say(
                    f"{100 * share:.0f} % of what validates and tests also trains, as of overlapping windows of a "
                    "longer series. Keep what overlaps in one part by --data.split.group, or let --data Window cut it"
                )

    def test_dataloader(self) -> DataLoader[of.Series]:
        if not len(self.test.t):
            self.split.refuse_test(self.frame.origin, "series")
        return super().test_dataloader()

    def predict_dataloader(self) -> DataLoader[of.Series]:
        self._require_resolved(self.frame, self.rows)  # in the model's units, which `setup` may not know yet
        return batches(self.predicted, self.batch_size)

    def table(self, predictions: Sequence[Any]) -> "pl.DataFrame":
        import polars as pl

        named = by_name(predictions, "outcomes" if self.outcome else "classes")
        whole = self._of_whole({name: joined(named.pop(name)) for name in ("classes", "outcomes") if name in named})
        rows, lengths = self.rows, self.rows.lengths
        if not named:
            count = len(next(iter(whole.values())))
            return pl.DataFrame({self.series: self.frame.as_ids(self.series, list(rows.names[:count]))} | whole)
        found: dict[str, NDArray[Any]] = {}
        for name, batches_of in named.items():
            every = (series for batch in batches_of for series in batch)
            found[suffix(name)] = joined([each[:length] for each, length in zip(every, lengths, strict=False)]).numpy()
        count = len(next(iter(found.values())))
        names = [rows.names[code] for code in rows.codes[:count]]
        features = self.known.features or self.features
        keys: dict[str, Any] = {
            self.series: self.frame.as_ids(self.series, names),
            self.time: self.frame.as_times(self.time, rows.t[:count], self.read.time_unit),
        }
        if self.drawn:
            return self.values_table(keys, found)
        keys[unused("seen", (self.series, self.time, *features))] = self._seen(count)
        table = self.values_table(keys, found, rows.y[:count])
        return table.with_columns(pl.DataFrame(whole)[rows.codes[:count]]) if whole else table

    def _of_whole(self, found: dict[str, Tensor]) -> dict[str, Any]:
        """The predicted class of each series with the probabilities of all classes, its outcomes, and what is true."""
        if not found:
            return {}
        first = self.rows.rows[self.rows.offsets[:-1]][: len(next(iter(found.values())))]
        columns: dict[str, Any] = {}
        if "classes" in found:
            columns |= classified(self.label or "class", self.known.classes, found["classes"])
        if "outcomes" in found:
            columns |= zip(self.outcome, found["outcomes"].numpy().T, strict=True)
        return self.with_truth(columns, [*several(self.label), *self.outcome], first)

    def _seen(self, count: int) -> NDArray[np.bool_]:
        """(count,), at which of the first rows anything is seen."""
        return self.predicted.seen.any(dim=2)[_exists(self.rows)][:count].numpy()

    # Reading

    def _read(self, frame: "Frame", observed: bool = True) -> "Observations":
        """The rows of a file, sorted by series and time, of each of which something was observed."""
        from odeflow_data.observations import Observations

        return Observations.of(frame, self.features, self.time, self.series, self.read, self.units, observed)

    def _labels(self, frame: "Frame", whole: "Observations") -> Tensor | None:
        """(N,), the class of each series, which all its rows have; None without classes."""
        if self.label is None:
            return None
        frame.require([self.label], "label")
        found = frame.classes(self.label, self.known.classes or self.class_names).codes
        return torch.from_numpy(self._of_each(frame, whole, self.label, found, "classes"))

    def _outcomes(self, frame: "Frame", whole: "Observations") -> Tensor | None:
        """(N, k), the outcomes of each series, in the file's units; None without outcomes."""
        if not self.outcome:
            return None
        frame.require(self.outcome, "outcome")
        cells = zip(self.outcome, frame.complete(self.outcome).T, strict=True)
        found = [self._of_each(frame, whole, name, column, "numbers") for name, column in cells]
        return torch.from_numpy(np.stack(found, axis=1))

    def _of_each(
        self, frame: "Frame", whole: "Observations", name: str, cells: NDArray[Any], kind: str
    ) -> NDArray[Any]:
        """(N,), the entry of each series in a column, which all its rows have.

        Args:
            frame: The file.
            whole: Its rows.
            name: The column.
            cells: Its entries, in the order of the file.
            kind: What they are, for the message.

        Raises:
            DataError: A series has several.
        """
        found, codes = cells[whole.rows[whole.offsets[:-1]]], frame.classes(self.series).codes
        wrong = np.flatnonzero(cells != found[codes])
        if len(wrong):
            raise of.DataError(
                f"{frame.origin}: the series {whole.names[codes[wrong[0]]]} has several {kind} in column {name!r}; "
                "each series has one"
            )
        return found

    def _inputs(self, frame: "Frame", whole: "Observations") -> NDArray[np.float64]:
        """(M, c + s), the covariates in the rows, and the static ones.

        Raises:
            DataError: A static covariate is unknown, or not constant in a series.
        """
        for columns, option in ((self.covariates, "covariates"), (self.static, "static")):
            frame.require(columns, option)
        found = frame.numbers(self.inputs)[whole.rows]
        first = found[whole.offsets[:-1]][whole.codes]
        wrong = ~(found == first)[:, len(self.covariates) :]
        if wrong.any():
            row, number = np.argwhere(wrong)[0]
            raise of.DataError(
                f"{frame.origin}: the series {whole.names[whole.codes[row]]} has several values in column "
                f"{self.static[number]!r}, or an empty cell; a static covariate has one value in each series. Name it "
                "in --data.covariates if it depends on time"
            )
        return found

    def _parts(self, whole: "Observations", series: NDArray[np.int64]) -> list[of.Series]:
        """Training, validation and test; `series` (N,), the part of each series of the first file."""
        first, files = self._known_batch(self.frame, whole), self.split.files
        found: list[of.Series] = []
        for part, name in enumerate(PARTS):
            if name in files:
                frame = self.open(files[name])
                found.append(self._known_batch(frame, self._read(frame)))
            else:
                found.append(trimmed(first.take(torch.from_numpy(series == part))))
        return found

    # Units

    def _fitted(self, whole: "Observations", train: NDArray[np.bool_]) -> of.Units:
        """Units of the training series' values, outcomes and covariates, and of all times."""
        shift, scale = self.moments(whole.y[train], self.features, "series")
        first, last = float(whole.t.min()), float(whole.t.max())
        if first == last:
            raise of.DataError(
                f"{self.frame.origin}: all times in column {self.time!r} are {first:g}; wanted are several"
            )
        origin, unit = (first, last - first) if self.scale_time else (0.0, 1.0)
        target = condition = None
        outcomes = self._outcomes(self.frame, whole)
        if outcomes is not None:
            trained = outcomes.numpy()[train[whole.offsets[:-1]]]
            target = of.Units(*self.moments(trained, self.outcome, "series"), features=tuple(self.outcome))
        if self.inputs:
            x = self._inputs(self.frame, whole)[train]
            condition = of.Units(*self.moments(x, self.inputs, "series"), features=tuple(self.inputs))
        names = tuple(self.features), self.class_names
        return of.Units(shift, scale, origin, unit, *names, whole.clock, target=target, condition=condition)

    def _known_batch(self, frame: "Frame", whole: "Observations") -> of.Series:
        """As `_batch`, with the class and the outcomes of each series."""
        self._require_resolved(frame, whole)
        outcomes = self._outcomes(frame, whole)
        if outcomes is not None:
            outcomes = (self.known.target or of.Units()).standardised(outcomes).float()
        return self._batch(frame, whole)._replace(label=self._labels(frame, whole), outcome=outcomes)

    def _batch(self, frame: "Frame", whole: "Observations") -> of.Series:
        """All series in the units of batches, padded to one length."""
        units = self.known
        y = units.standardised(torch.from_numpy(whole.y)).numpy()
        t = (whole.t - units.origin) / units.unit
        batch = padded(t, y, ~np.isnan(y), whole.offsets)
        if not self.inputs:
            return batch
        x = (units.condition or of.Units()).standardised(torch.from_numpy(self._inputs(frame, whole))).float()
        over_time, constant = x.split([len(self.covariates), len(self.static)], dim=1)
        lengths, starts = whole.lengths.tolist(), torch.from_numpy(whole.offsets[:-1])
        return batch._replace(
            covariates=pad_sequence(list(over_time.split(lengths)), True, torch.nan) if self.covariates else None,
            static=constant[starts] if self.static else None,
        )

    def _require_resolved(self, frame: "Frame", whole: "Observations") -> None:
        """Raises where different times of a series are the same in batches."""
        t = (whole.t - self.known.origin) / self.known.unit
        lost = np.flatnonzero((np.diff(t.astype(np.float32)) == 0) & (np.diff(whole.codes) == 0))
        if len(lost):
            row, remedy = lost[0], "Round the times, or count those of each series from its first one"
            raise of.DataError(
                f"{frame.origin}: {len(lost):,} steps of time vanish in float32, such as that from {whole.t[row]:.15g} "
                f"to {whole.t[row + 1]:.15g} in column {self.time!r}. "
                + (remedy if self.scale_time else "Subtract the first time, or set --data.scale_time=true")
            )

    def _summary(self, whole: "Observations", counts: Sequence[int]) -> str:
        """The series of each part, their lengths, columns and units, in one line."""
        lengths, missing = whole.lengths, np.isnan(whole.y).mean()
        facts = [f"{self.frame.origin}: {self.split.summary(counts, 'series')}"]
        times = f"{lengths.min()} to " if lengths.min() < lengths.max() else ""
        facts += [f"{times}{lengths.max()} times each, {amount(self.dim, 'columns')}: {listed(self.features)}"]
        facts += [f"{100 * missing:.3g} % of the cells empty"] if missing else []
        facts += whole.order
        clock = whole.clock or "the file's numbers"
        facts += [f"time {self.time} in {clock}, {whole.t.min():g} to {whole.t.max():g}"]
        facts += [f"covariates: {listed(self.inputs)}"] if self.inputs else []
        facts += [f"classes of {self.label}: {listed(self.class_names)}"] if self.label else []
        facts += [f"outcomes: {listed(self.outcome)}"] if self.outcome else []
        return "; ".join([*facts, "standardised" if self.standardise else "in the file's units"])


def _exists(rows: "Observations") -> torch.Tensor:
    """(N, T), which places of the padded series are rows of the file."""
    lengths = torch.from_numpy(rows.lengths)
    return torch.arange(int(lengths.max())) < lengths[:, None]
