"""OwnData: user data from a file, a data frame or arrays."""

from abc import ABC
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

import odeflow as of
from odeflow_data.names import listed
from odeflow_data.reading import Reading
from odeflow_data.split import PARTS, Split

if TYPE_CHECKING:
    import polars as pl

    from odeflow_data.frame import Frame


class OwnData(of.DataModule, ABC):
    """Data read by `Frame` from `path`, the first option of a subclass, which in Python may be a data frame or arrays.

    What a file leaves open, such as which columns there are, is settled when it is first read, and kept with the
    model: a later file is read alike.
    """

    standardises = True
    tabular = True
    path: Any
    read: Reading
    split: Split
    frame: "Frame"
    features: list[str]
    label: str | None = None
    class_names: tuple[str, ...] = ()
    standardise: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        given = kwargs.get("path", args[0] if args else "")
        if isinstance(given, str):
            return super().__new__(cls, *args, **kwargs)
        from odeflow_data.source import described

        text = described(given)  # a checkpoint cannot hold a data frame, but what it was
        if "path" in kwargs:
            return super().__new__(cls, *args, **(kwargs | {"path": text}))
        return super().__new__(cls, text, *args[1:], **kwargs)

    def begin(
        self,
        path: Any,
        columns: Sequence[str] | None,
        roles: Mapping[str, Sequence[str]],
        label: str | None,
        ignore: Sequence[str] | None,
        split: Split,
        read: Reading,
        standardise: bool,
    ) -> None:
        """Opens the file, and settles which columns are values, and the classes.

        Args:
            path: The file, or another source.
            columns: The columns of values; by default all without another role.
            roles: The columns that have another role, by the option that names them.
            label: The column of classes, too.
            ignore: Columns that are no values, where `columns` does not say which are.
            split: Which rows train.
            read: How cells are read.
            standardise: Whether values are standardised.

        Raises:
            SettingError: A column has two roles.
            DataError: A file or column does not exist, no column is left, or there is only one class.
        """
        self.path, self.split, self.read, self.standardise = path, split, read, standardise
        self.frame = self.open(path)
        roles = {**roles, "label": several(label)}
        taken = [name for names in roles.values() for name in names]
        if columns is None:
            by, group, ignored = several(split.by), several(split.group), several(ignore)
            for option, names in {**roles, "split.by": by, "split.group": group, "ignore": ignored}.items():
                self.frame.require(names, option)
            self.features = self._others([*taken, *by, *group, *ignored])
        else:
            self.features = list(columns)
        twice = [name for name, count in Counter([*self.features, *taken]).items() if count > 1]
        if twice:
            raise of.SettingError(
                f"{type(self).__name__}: column {twice[0]!r} is named twice; each column has one role"
            )
        self.settle(columns=self.features, ignore=None)
        self.dim = len(self.features)
        if label is None:
            return
        if read.classes is None:
            self.frame.require([label], "label")
            self.read = replace(read, classes=list(self.frame.class_names(label)))
            self.settle(read=dict(vars(self.read)))
        self.class_names = tuple(self.read.classes or ())
        self.num_classes = len(self.class_names)
        alike = Counter(name.casefold() for name in self.class_names)
        if len(alike) < self.num_classes:
            same = [name for name in self.class_names if alike[name.casefold()] > 1]
            rank_zero_warn(
                f"{self.frame.origin}: classes of column {label!r} differ by their case only: {listed(same)}"
            )
        if self.num_classes == 1:
            raise of.DataError(f"{self.frame.origin}: column {label!r} holds one class only, {self.class_names[0]}")

    def open(self, source: Any) -> "Frame":
        """The columns of a file, or of another source."""
        from odeflow_data.frame import Frame

        return Frame.of(source, self.read.key, self.read.na_values)

    def settle(self, **options: Any) -> None:
        """Stores options inferred from the file as if they had been given."""
        self.remembered_spec["init_args"] |= options

    @property
    def known(self) -> of.Units:
        """The units of the model, if there is one."""
        return self.units or of.Units()

    def require_trained(self, counts: Sequence[Sequence[int]]) -> None:
        """Checks that each class that validation or test has is in training.

        Args:
            counts: Number of rows of each class in training, validation and test.

        Raises:
            DataError: A class is not.
        """
        for name, train, *others in zip(self.class_names, *counts, strict=True) if self.class_names else ():
            if not train and any(others):
                raise of.DataError(
                    f"{self.frame.origin}: class {name!r} of column {self.label!r} is in no training row, but in "
                    f"{' and '.join(part for part, count in zip(PARTS[1:], others, strict=True) if count)}. Leave its "
                    "rows out, or divide the file otherwise, such as by another --data.split.seed"
                )

    def moments(
        self, y: NDArray[np.float64], names: Sequence[str], rows: str
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The mean and standard deviation of each column's observed values; 0 and 1 without standardisation.

        Args:
            y: (N, d), NaN where nothing was observed.
            names: (d,), the columns.
            rows: What the rows are, for the message.

        Raises:
            DataError: A column is empty or constant.
        """
        if not self.standardise:
            return (0.0,), (1.0,)
        for name, column in zip(names, y.T, strict=True):
            seen = column[~np.isnan(column)]
            self.require_range(name, rows, len(seen) > 0 and seen.min() < seen.max())
        return tuple(np.nanmean(y, axis=0).tolist()), tuple(np.nanstd(y, axis=0).tolist())

    def require_range(self, name: str, rows: str, varies: bool) -> None:
        """Raises unless the values of a column vary in the training rows."""
        if not varies:
            raise of.DataError(
                f"{self.frame.origin}: column {name!r} is empty or constant in the training {rows}, so it cannot "
                "be standardised. Leave it out by --data.ignore, or set --data.standardise=false"
            )

    def _others(self, taken: Sequence[str]) -> list[str]:
        """The columns that are none of these, without those that have no name."""
        found = self.frame.others(taken)
        if not found:
            raise of.DataError(
                f"{self.frame.origin}: no column is left for columns; it has {', '.join(self.frame.names)}. Name some "
                "by --data.columns"
            )
        return found

    def values_table(
        self, keys: dict[str, Any], predictions: dict[str, NDArray[Any]], truth: NDArray[np.float64] | None = None
    ) -> "pl.DataFrame":
        """A table of predicted values, and of what was observed under `_true`.

        Args:
            keys: The first columns, (N,) each.
            predictions: The values (N, d) by suffix.
            truth: (N, d), NaN where nothing was observed; None for samples, which are of nothing observed.
        """
        import polars as pl

        columns = dict(keys)
        for suffix, values in {**predictions, **({} if truth is None else {"_true": truth})}.items():
            for name, column in zip(self.known.features or self.features, values.T, strict=True):
                columns[unused(f"{name}{suffix}", columns)] = pl.Series(np.ascontiguousarray(column), nan_to_null=True)
        return pl.DataFrame(columns)

    def with_truth(self, columns: dict[str, Any], names: Sequence[str], rows: NDArray[np.int64]) -> dict[str, Any]:
        """The columns, and under `_true` what the file says in these rows (N,) of those with these names."""
        found = dict(columns)
        for name in names:
            if name in columns and name in self.frame.names:
                found[unused(f"{name}_true", found)] = self.frame.column(name, rows)
        return found

    def say(self, text: str) -> None:
        """Prints a summary line, in the first process of a run."""
        rank_zero_info(f"{type(self).__name__}: {text}")


def joined(predictions: Sequence[Tensor]) -> Tensor:
    """The predictions of several batches as one tensor, in single precision at least."""
    whole = torch.cat(list(predictions))
    return whole.float() if whole.dtype in (torch.float16, torch.bfloat16) else whole


def by_name(predictions: Sequence[Any], whole: str = "") -> dict[str, list[Tensor]]:
    """The predictions of several batches by name. A single one is the `mean`, or, of shape (B, n), `whole`."""
    first = predictions[0]
    alone = whole if isinstance(first, Tensor) and first.dim() == 2 else "mean"
    named = [each if isinstance(each, dict) else {alone: each} for each in predictions]
    return {name: [each[name] for each in named] for name in named[0]}


def suffix(name: str) -> str:
    """The suffix of the columns of a prediction of values: none for the mean, else `_` and its name."""
    return "" if name == "mean" else f"_{name}"


def classified(label: str, names: Sequence[str], probabilities: Tensor) -> dict[str, Any]:
    """The most probable class and the probability of each, as columns.

    Args:
        label: The name of the column of classes.
        names: (C,), the names of the classes.
        probabilities: (N, C).
    """
    columns: dict[str, Any] = {label: [names[number] for number in probabilities.argmax(dim=1).tolist()]}
    for name, probability in zip(names, probabilities.numpy().T, strict=True):
        columns[unused(f"probability_{name}", columns)] = probability
    return columns


def unused(name: str, taken: Collection[str]) -> str:
    """A name for a column beside those of the file, with a trailing underscore if the file has such a name."""
    while name in taken:
        name += "_"
    return name


def several(names: str | Sequence[str] | None) -> list[str]:
    """Names given as one, several or none."""
    return [names] if isinstance(names, str) else list(names or ())
