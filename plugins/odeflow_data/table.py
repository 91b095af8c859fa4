"""Table: anyone's table of independent rows, for densities, regression and classification."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.memory import available_memory
from odeflow_data.names import amount, listed
from odeflow_data.own_data import OwnData, classified, joined, several, unused
from odeflow_data.reading import Reading
from odeflow_data.rows import batches
from odeflow_data.split import PARTS, Split
from odeflow_data.stream import Stream
from odeflow_data.survey import Moments, Survey

if TYPE_CHECKING:
    import polars as pl

    from odeflow_data.frame import Frame
    from odeflow_data.table_stream import TableStream


class Part(NamedTuple):
    """Rows of a table.

    Attributes:
        x: (N, d), the values.
        beside: (N, k), the targets or conditions; k = 0 where there are none.
        label: (N,), the classes; None where there are none.
        row: (N,), which rows of the file they are, from 0 on.
    """

    x: Tensor
    beside: Tensor
    label: Tensor | None
    row: Tensor

    def at(self, chosen: Tensor) -> "Part":
        """Those rows of (N,) bool."""
        return Part(*(None if each is None else each[chosen] for each in self))  # pyright: ignore[reportArgumentType]


class Table(OwnData):
    """The rows of a table, split into training, validation and test.

    All columns without another role are the values x, (B, d). A batch is x; with a target (x, y), where y is (B, k);
    with a condition (x, c) likewise; with a label (x, class), where the classes are (B,). Numbers are standardised by
    mean and standard deviation of the training rows, which the model keeps, as it keeps the columns and the names of
    the classes: later files are read alike. Losses are in these units; predictions, samples and their densities are in
    the file's.

    `odeflow predict` takes all rows of its file, in their order; targets and labels need not be in it. Its table has
    the number of each row, from 1 on, beside the predicted targets, or the predicted class and the probability of each,
    `probability_<class>`, or the log-density in nats, `log_prob`; and what the file says, `<target>_true`.

    A CSV or Parquet file that is larger than memory, or than `read.memory`, is read a piece at a time: rows are
    shuffled within a buffer, and each is drawn for its part on its own, or groups by their names, so that shares are
    approximate.

    Args:
        path: The file, CSV, TSV, Parquet, `.npy` or `.npz`; in Python a data frame, columns by name or an array (N, D).
        columns: The columns of values; by default all without another role.
        target: The columns that a regression predicts.
        label: The column of classes, as text or whole numbers.
        condition: The columns on which a density depends.
        ignore: Columns to ignore, where no others are chosen.
        split: Which rows train, validate and test.
        read: How cells are read.
        standardise: Whether values, targets and conditions are standardised.
        batch_size: Number of rows in a batch, in training and evaluation; the last one may be smaller.

    Raises:
        SettingError: An option is out of range, or contradicts another.
        DataError: A file or column does not exist, or a cell is malformed.

    Example:
        >>> data = Table({"x": range(20), "kind": ["a", "b"] * 10}, label="kind")
        >>> data.dim, data.num_classes
        (1, 2)
    """

    def __init__(
        self,
        path: str | Any,
        columns: list[str] | None = None,
        target: str | list[str] | None = None,
        label: str | None = None,
        condition: str | list[str] | None = None,
        ignore: list[str] | None = None,
        split: Split = Split(),
        read: Reading = Reading(),
        standardise: bool = True,
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, batch_size=batch_size)
        roles = {"target": target, "label": label, "condition": condition}
        if sum(map(bool, roles.values())) > 1:
            raise of.SettingError(
                "Table: target is for a regression, label for a classification, condition for a density; got "
                + " and ".join(f"{name} {value}" for name, value in roles.items() if value)
            )
        read.refuse(self, duplicates="rows of a table may be equal", time_unit="the rows of a table have no times")
        self.target, self.condition, self.label, self.batch_size = (
            several(target),
            several(condition),
            label,
            batch_size,
        )
        self.begin(
            path,
            columns,
            {"target": self.target, "condition": self.condition},
            label,
            ignore,
            split,
            read,
            standardise,
        )
        if self.target:
            self.num_outputs = len(self.target)
        if self.condition:
            self.num_conditions = len(self.condition)

    def setup(self, stage: str) -> None:
        if stage == "predict":
            self._set_predicted()
            return
        stream = self._stream()
        parts = self._parts() if stream is None else []
        survey = Survey.of(enumerate(parts) if stream is None else stream.parts(), len(self.class_names))
        self.split.check(self.frame.origin, survey.counts, "rows")
        if stage == "fit":
            self.require_trained(survey.classes)
        if self.units is None:
            self.units = self._fitted(survey.moments)
        self.counts = survey.counts
        numbers = (0, 1 if self.counts[1] else 0, 2)
        if stream is None:
            whole = [self._standardised(part) for part in parts]
            self.train, self.val, self.test = (whole[part] for part in numbers)
        else:
            self.train, self.val, self.test = (
                stream.batches(stream.of_part(part), self.counts[part], self.batch_size, self._batch_of, place == 0)
                for place, part in enumerate(numbers)
            )
        if self.label is not None:
            self.class_counts = survey.classes[0]
        if stage in ("fit", "test"):
            self.say(self._summary(survey.counts, stream))

    def _set_predicted(self) -> None:
        """Keeps the rows to predict, or if they are larger than memory their numbers."""
        stream = self._stream(known=False)
        if stream is None:
            whole = self._standardised(self._rows(self.frame, known=False))
            self.predicted, self.predicted_rows = whole, whole.row
        else:
            self.predicted_rows = torch.cat([piece.row for piece in stream.whole(self.frame)])
            whole = partial(stream.whole, self.frame)
            self.predicted = stream.batches(whole, len(self.predicted_rows), self.batch_size, self._batch_of)
        dropped = self.frame.count - len(self.predicted_rows)
        if dropped:
            self.say(f"{dropped:,} of {self.frame.count:,} rows have empty cells and are left out")

    def _batch_of(self, rows: Part) -> tuple[Tensor, ...]:
        """What batches have of rows in the file's units."""
        return _columns(self._standardised(rows))

    def _stream(self, known: bool = True) -> "TableStream | None":
        """The file in pieces if it is larger than memory.

        Args:
            known: Whether targets and labels are known.
        """
        from odeflow_data.table_stream import TableStream

        names = [*(self.known.features or self.features), *self.condition, *(self.target if known else [])]
        names += several(self.label) if known else []
        limit = self.read.memory or available_memory()
        if limit is None or not self.frame.needed(len(names), limit):
            return None
        files = {name: self.open(path) for name, path in self.split.files.items()} if known else {}
        return TableStream(self.frame, names, partial(self._rows, known=known), self.split, limit, files)

    # Rows

    def _rows(self, frame: "Frame", known: bool = True) -> Part:
        """The rows of a file in its units and order, with targets and labels if these are known."""
        names = self.known.features or tuple(self.features)
        beside = self.condition or (self.target if known else [])
        for columns, option in ((names, "columns"), (self.condition, "condition"), (self.target, "target")):
            frame.require(columns if known or option != "target" else [], option)
        table = frame.numbers([*names, *beside])
        empty, labels = np.isnan(table), several(self.label) if known else []
        frame.require(labels, "label")
        empty = np.column_stack([empty, *(frame.empty(name) for name in labels)])
        if empty.any() and self.read.missing == "refuse":
            row, column = np.argwhere(empty)[0]
            count, name = int(empty.any(axis=1).sum()), [*names, *beside, *labels][column]
            raise of.DataError(
                f"{frame.origin}: {count:,} of {len(table):,} rows have empty cells, the first in row "
                f"{frame.row(row)}, column {name!r}. Leave these rows out by --data.read.missing drop, or the column "
                "by --data.ignore"
            )
        (kept,) = np.nonzero(~empty.any(axis=1))
        label = None
        if labels:
            label = torch.from_numpy(frame.classes(labels[0], self.known.classes or self.class_names, kept).codes)
        values, places = torch.from_numpy(table[kept]), frame.skipped + kept
        return Part(values[:, : len(names)], values[:, len(names) :], label, torch.from_numpy(places))

    def _parts(self) -> list[Part]:
        """Training, validation and test, in the file's units."""
        whole = self._rows(self.frame)
        numbers = torch.from_numpy(self.split.parts(self.frame, whole.row.numpy()))
        files = self.split.files
        return [
            self._rows(self.open(files[name])) if name in files else whole.at(numbers == part)
            for part, name in enumerate(PARTS)
        ]

    # Units

    def _fitted(self, moments: Moments) -> of.Units:
        """Units in which the training rows have mean 0 and standard deviation 1."""
        beside = self.target or self.condition
        if self.standardise:
            for number, name in enumerate([*self.features, *beside]):
                self.require_range(name, "rows", bool(moments.low[number] < moments.high[number]))
        of_beside = of.Units(*self._scales(moments, self.dim, None), features=tuple(beside)) if beside else None
        return of.Units(
            *self._scales(moments, 0, self.dim),
            features=tuple(self.features),
            classes=self.class_names,
            target=of_beside if self.target else None,
            condition=of_beside if self.condition else None,
        )

    def _scales(self, moments: Moments, first: int, end: int | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Offsets and scales of some columns."""
        if not self.standardise:
            return (0.0,), (1.0,)
        return tuple(moments.mean[first:end].tolist()), tuple(moments.std[first:end].tolist())

    def _standardised(self, rows: Part) -> Part:
        units, beside = self.known.target or self.known.condition or of.Units(), rows.beside
        beside = units.standardised(beside) if beside.shape[1] else beside  # a file to predict has no targets
        return rows._replace(x=self.known.standardised(rows.x).float(), beside=beside.float())

    def _summary(self, counts: Sequence[int], stream: "TableStream | None") -> str:
        """The parts, their sizes and origin, the columns and their roles, and the units, in one line."""
        facts = [
            f"{self.frame.origin}: {self.split.summary(counts, 'rows')}",
            f"{amount(self.dim, 'columns')}: {listed(self.features)}",
        ]
        facts += [f"target: {listed(self.target)}"] if self.target else []
        facts += [f"condition: {listed(self.condition)}"] if self.condition else []
        facts += [f"classes of {self.label}: {listed(self.class_names)}"] if self.label else []
        facts += [f"larger than memory, shuffled among {stream.rows // 2:,} rows"] if stream is not None else []
        return "; ".join([*facts, "standardised" if self.standardise else "in the file's units"])

    # Batches

    def train_dataloader(self) -> DataLoader[Any]:
        return self._batches(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._batches(self.val)

    def test_dataloader(self) -> DataLoader[Any]:
        if not self.counts[2]:
            self.split.refuse_test(self.frame.origin, "rows")
        return self._batches(self.test)

    def training_part(self) -> Any:
        if isinstance(self.train, Stream):
            return None
        columns = _columns(self.train)
        return columns[0] if len(columns) == 1 else columns

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._batches(self.predicted)

    def table(self, predictions: Sequence[Any]) -> "pl.DataFrame":
        import polars as pl

        columns = self._named(joined(predictions))
        count = len(next(iter(columns.values())))
        rows = self.predicted_rows[:count].numpy()
        columns = self.with_truth(columns, [*self.target, *several(self.label)], rows)
        return pl.DataFrame({unused("row", columns): rows + 1} | columns)

    def _named(self, values: Tensor) -> dict[str, Any]:
        """Predictions by name: log-densities (N,), targets (N, k) or probabilities of classes (N, C)."""
        targets = (self.known.target or of.Units()).features or tuple(self.target)
        classes = self.known.classes or self.class_names
        if values.dim() == 1:
            return {"log_prob": values.numpy()}
        if values.dim() == 2 and targets and values.shape[1] == len(targets):
            return dict(zip(targets, values.numpy().T, strict=True))
        if values.dim() == 2 and self.label is not None and values.shape[1] == len(classes):
            return classified(self.label, classes, values)
        raise of.DataError(
            f"Table cannot write predictions of shape {tuple(values.shape)} as a table; expected (rows,), "
            f"(rows, {len(targets)} targets) or (rows, {len(classes)} classes). Leave out --output to write "
            "predictions.pt"
        )

    def _batches(self, rows: Part | Stream, shuffle: bool = False) -> DataLoader[Any]:
        if isinstance(rows, Stream):
            return DataLoader(rows, batch_size=None)
        return batches(*_columns(rows), batch_size=self.batch_size, shuffle=shuffle)


def _columns(rows: Part) -> tuple[Tensor, ...]:
    """The values, and what is beside them in a batch, if anything."""
    if rows.label is not None:
        return rows.x, rows.label
    return (rows.x, rows.beside) if rows.beside.shape[1] else (rows.x,)
