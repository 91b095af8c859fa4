"""Table: anyone's table of independent rows, for densities, regression and classification."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.own_data import OwnData, joined, several, shortly, unused
from odeflow_data.rows import batches

if TYPE_CHECKING:
    import polars as pl

    from odeflow_data.frame import Frame

PARTS = ("train", "val", "test")


class Part(NamedTuple):
    """Rows of a table.

    Attributes:
        x: (N, d), the values.
        y: (N, k), the targets; k = 0 where there are none.
        label: (N,), the classes; None where there are none.
        row: (N,), which rows of the file they are, from 0 on.
    """

    x: Tensor
    y: Tensor
    label: Tensor | None
    row: Tensor


class Table(OwnData):
    """The rows of a table, split into training, validation and test.

    All columns without another role are the values x, (B, d). A batch is x; with a target (x, y), where y is (B, k);
    with a label (x, class), where the classes are (B,). Values and targets are standardised by mean and standard
    deviation of the training rows, which the model keeps, as it keeps the columns and the names of the classes: later
    files are read alike. Losses are in these units; predictions, samples and their densities are in the file's.

    `odeflow predict` takes all rows of its file, in their order; targets and labels need not be in it. Its table has
    the number of each row, from 1 on, beside the predicted targets, or the predicted class and its probability, or the
    log-density in nats, `log_prob`.

    Args:
        path: The file, CSV, TSV, Parquet, `.npy` or `.npz`; in Python a data frame, columns by name or an array (N, D).
        columns: The columns of values; by default all without another role.
        target: The columns that a regression predicts.
        label: The column of classes, as text or whole numbers.
        ignore: Columns to ignore.
        time: A column that orders the rows: the last ones are for testing, those before them for validation.
        part: A column that assigns each row to "train", "val" or "test".
        val: Fraction of the rows for validation, or a file of them.
        test: Fraction of the rows for testing, or a file of them.
        missing: Treatment of rows with an empty cell: "refuse" raises an error that names them, "drop" omits them.
        standardise: Whether values and targets are standardised.
        classes: The names of the classes in the order of their numbers; by default those in the file.
        batch_size: Number of rows in a batch, in training and evaluation; the last one may be smaller.
        key: Name of the array in a `.npz` file that holds several.
        seed: Seed of a random split.

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
        path: str,
        columns: list[str] | None = None,
        target: str | list[str] | None = None,
        label: str | None = None,
        ignore: list[str] | None = None,
        time: str | None = None,
        part: str | None = None,
        val: float | str = 0.1,
        test: float | str = 0.1,
        missing: Literal["refuse", "drop"] = "refuse",
        standardise: bool = True,
        classes: list[str] | None = None,
        batch_size: int = 256,
        key: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, batch_size=batch_size)
        of.check_least(self, 0, seed=seed)
        if missing not in ("refuse", "drop"):
            raise of.SettingError(f"Table: missing must be 'refuse' or 'drop'; got {missing!r}")
        if target and label:
            raise of.SettingError(
                f"Table: target is for a regression, label for a classification; got both, {target} and {label}"
            )
        shares = [share for share in (val, test) if not isinstance(share, str)]
        if not (all(share > 0 for share in shares) and sum(shares) < 1):
            raise of.SettingError(
                f"Table: val and test must be positive and leave a share to train on; got {val} and {test}"
            )
        if time is not None and part is not None:
            raise of.SettingError(f"Table: rows are split by time or by part; got both, {time} and {part}")
        self.path, self.key, self.target, self.label, self.time, self.part = (
            path,
            key,
            several(target),
            label,
            time,
            part,
        )
        self.val_share, self.test_share, self.missing, self.standardise = val, test, missing, standardise
        self.batch_size, self.seed = batch_size, seed
        self.frame = self.open(path)
        roles = [*self.target, label, *several(ignore), time, part]
        self.features = self.columns(self.frame, columns, roles, "columns")
        self.settle(columns=self.features)
        self.dim = len(self.features)
        if self.target:
            self.num_outputs = len(self.target)
        if label is not None:
            if classes is None:
                self.frame.require([label], "label")
                classes = list(self.frame.classes(label).names)
                self.settle(classes=classes)
            if len(classes) < 2:
                raise of.DataError(f"{self.frame.origin}: column {label!r} holds one class only, {classes[0]}")
            self.num_classes = len(classes)
        self.class_names = tuple(classes or ())

    def setup(self, stage: str) -> None:
        if stage == "predict":
            whole = self._rows(self.frame, known=False)
            self.predicted = self._standardised(whole, self.units or of.Units())
            return
        parts = self._parts()
        if self.units is None:
            self.units = self._fitted(parts[0])
        self.train, self.val, self.test = (self._standardised(part, self.units) for part in parts)
        if stage == "fit":
            self.say(self._summary())

    # Rows

    def _rows(self, frame: "Frame", known: bool = True) -> Part:
        """The rows of a file in its units and order, with targets and labels if these are known."""
        names = self._known.features or tuple(self.features)
        frame.require(names, "columns")
        targets = self.target if known else []
        frame.require(targets, "target")
        table = frame.numbers([*names, *targets])
        empty = np.isnan(table)
        if empty.any() and self.missing == "refuse":
            row, column = np.argwhere(empty)[0]
            count = int(empty.any(axis=1).sum())
            raise of.DataError(
                f"{frame.origin}: {count:,} of {len(table):,} rows have empty cells, the first in row {row + 1}, "
                f"column {[*names, *targets][column]!r}. Leave these rows out by --data.missing drop, or the column by "
                "--data.ignore"
            )
        kept = ~empty.any(axis=1)
        label = None
        if known and self.label is not None:
            frame.require([self.label], "label")
            label = torch.from_numpy(frame.classes(self.label, self._known.classes or self.class_names).codes[kept])
        values = torch.from_numpy(table[kept])
        return Part(values[:, : len(names)], values[:, len(names) :], label, torch.from_numpy(np.flatnonzero(kept)))

    @property
    def _known(self) -> of.Units:
        return self.units or of.Units()

    def _parts(self) -> list[Part]:
        """Training, validation and test, in the file's units."""
        whole = self._rows(self.frame)
        found = {name: _at(whole, rows) for name, rows in self._divided(whole).items()}
        for name, share in (("val", self.val_share), ("test", self.test_share)):
            if isinstance(share, str):
                found[name] = self._rows(self.open(share))
        for rows in found.values():
            if not len(rows.x):
                counts = ", ".join(f"{len(each.x)} {part}" for part, each in found.items())
                raise of.DataError(
                    f"{self.frame.origin} has too few rows: {counts}, but each part needs one. Give more rows, or "
                    "other shares by --data.val and --data.test"
                )
        return [found[name] for name in PARTS]

    def _divided(self, whole: Part) -> dict[str, Tensor]:
        """The row indices of each part in the first file."""
        if self.part is not None:
            self.frame.require([self.part], "part")
            codes = torch.from_numpy(self.frame.classes(self.part, PARTS).codes)[whole.row]
            return {name: (codes == code).nonzero()[:, 0] for code, name in enumerate(PARTS)}
        shares = {"val": self.val_share, "test": self.test_share}
        sizes = {name: round(share * len(whole.x)) for name, share in shares.items() if not isinstance(share, str)}
        count, order = len(whole.x), self._order(whole)
        return dict(zip(("train", *sizes), order.split([count - sum(sizes.values()), *sizes.values()]), strict=True))

    def _order(self, whole: Part) -> Tensor:
        """The rows in the order in which they are cut into parts."""
        if self.time is None:
            return torch.randperm(len(whole.x), generator=torch.Generator().manual_seed(self.seed))
        self.frame.require([self.time], "time")
        times = torch.from_numpy(self.frame.times(self.time, "seconds").values)[whole.row]
        return times.argsort(stable=True)

    # Units

    def _fitted(self, train: Part) -> of.Units:
        """Units in which the training rows have mean 0 and standard deviation 1."""
        target = self._moments(train.y, self.target) if self.target else None
        shift, scale = self._moments(train.x, self.features)
        return of.Units(
            *(shift, scale),
            features=tuple(self.features),
            classes=self.class_names,
            target=None if target is None else of.Units(*target, features=tuple(self.target)),
        )

    def _moments(self, values: Tensor, names: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The offset and scale of each column.

        Raises:
            DataError: A column is constant.
        """
        if not self.standardise:
            return (0.0,), (1.0,)
        constant = (values.amax(dim=0) == values.amin(dim=0)).nonzero()[:, 0].tolist()
        if constant:
            raise of.DataError(
                f"{self.frame.origin} cannot be standardised: constant in the {len(values)} training rows is column "
                f"{shortly([repr(names[column]) for column in constant])}. Leave it out by --data.ignore, or set "
                "--data.standardise=false"
            )
        return tuple(values.mean(dim=0).tolist()), tuple(values.std(dim=0, correction=0).tolist())

    def _standardised(self, rows: Part, units: of.Units) -> Part:
        target = units.target or of.Units()
        return rows._replace(x=units.standardised(rows.x).float(), y=target.standardised(rows.y).float())

    def _summary(self) -> str:
        """The parts, their sizes and origin, the columns and their roles, and the units, in one line."""
        verbs = (("train", 0.0), ("validate", self.val_share), ("test", self.test_share))
        parts = [
            f"{len(part.x):,} rows {verb}{f' in {share}' if isinstance(share, str) else ''}"
            for part, (verb, share) in zip((self.train, self.val, self.test), verbs, strict=True)
        ]
        how = f"by {self.part or self.time}" if self.part or self.time else f"at random by seed {self.seed}"
        told = [
            f"{self.frame.origin}: {', '.join(parts)}, split {how}",
            f"{self.dim} columns: {shortly(self.features)}",
        ]
        told += [f"target: {shortly(self.target)}"] if self.target else []
        told += [f"classes of {self.label}: {shortly(self.class_names)}"] if self.label else []
        return "; ".join([*told, "standardised" if self.standardise else "in the file's units"])

    # Batches

    def train_dataloader(self) -> DataLoader[Any]:
        return self._batches(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._batches(self.val)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._batches(self.test)

    def predict_dataloader(self) -> DataLoader[Any]:
        return batches(self.predicted.x, batch_size=self.batch_size)

    def table(self, predictions: Sequence[Any]) -> "pl.DataFrame":
        import polars as pl

        columns = self._named(joined(predictions))
        count = len(next(iter(columns.values())))
        return pl.DataFrame({unused("row", columns): self.predicted.row[:count].numpy() + 1} | columns)

    def _named(self, values: Tensor) -> dict[str, Any]:
        """Predictions by name: log-densities (N,), targets (N, k) or probabilities of classes (N, C)."""
        targets = (self._known.target or of.Units()).features or tuple(self.target)
        classes = self._known.classes or self.class_names
        if values.dim() == 1:
            return {"log_prob": values.numpy()}
        if values.dim() == 2 and targets and values.shape[1] == len(targets):
            return dict(zip(targets, values.numpy().T, strict=True))
        if values.dim() == 2 and self.label is not None and values.shape[1] == len(classes):
            probability, number = values.max(dim=1)
            named = [classes[each] for each in number.tolist()]
            return {self.label: named, unused("probability", [self.label]): probability.numpy()}
        raise of.DataError(
            f"Table cannot write predictions of shape {tuple(values.shape)} as a table; expected (rows,), "
            f"(rows, {len(targets)} targets) or (rows, {len(classes)} classes). Leave out --output to write "
            "predictions.pt"
        )

    def _batches(self, rows: Part, shuffle: bool = False) -> DataLoader[Any]:
        beside = [rows.label] if rows.label is not None else [rows.y] if self.target else []
        return batches(rows.x, *beside, batch_size=self.batch_size, shuffle=shuffle)


def _at(rows: Part, places: Tensor) -> Part:
    label = None if rows.label is None else rows.label[places]
    return Part(rows.x[places], rows.y[places], label, rows.row[places])
