"""Rows: data that are rows of numbers, handed out a batch at a time."""

from abc import ABC
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import odeflow as of


class RowData(of.DataModule, ABC):
    """Data whose batches are tensors (B, D). Subclasses say what is trained on, and set these in `setup`.

    Attributes:
        val: (N, D), the validation part.
        test: (N, D), the test part, also used for predictions.
        batch_size: Number of rows in a batch.
    """

    val: Tensor
    test: Tensor
    batch_size: int

    def val_dataloader(self) -> DataLoader[Tensor]:
        return batches(self.val, batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader[Tensor]:
        return batches(self.test, batch_size=self.batch_size)


class Rows(Dataset[Any]):
    """The rows of one table, or of several side by side; those of a batch are taken at one stroke.

    Args:
        *tables: Each (N, …).
    """

    def __init__(self, *tables: Tensor) -> None:
        self.tables = tables

    def __len__(self) -> int:
        return len(self.tables[0])

    def __getitem__(self, index: int) -> Any:
        return self._at(index)

    def __getitems__(self, indices: list[int]) -> Any:
        """The rows of a batch, each (B, …): what a DataLoader asks for where it is offered."""
        return self._at(indices)

    def _at(self, place: Any) -> Any:
        rows = tuple(table[place] for table in self.tables)
        return rows[0] if len(self.tables) == 1 else rows


def batches(*tables: Tensor, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
    """All rows, in batches that are tensors (B, …), as many as there are tables; the last batch may be smaller.

    Args:
        *tables: Each (N, …).
        batch_size: Number of rows in a batch.
        shuffle: Whether to reshuffle in each pass.

    Raises:
        SettingError: `batch_size` is not positive.
    """
    return whole_batches(Rows(*tables), batch_size, shuffle)


def whole_batches(dataset: Dataset[Any], batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
    """All samples of a data set that collates a batch itself, in `__getitems__`; the last batch may be smaller.

    Raises:
        SettingError: `batch_size` is not positive.
    """
    if batch_size < 1:
        raise of.SettingError(f"batch_size must be at least 1; got {batch_size}")
    if not shuffle:
        return of.evaluation_loader(dataset, batch_size, together)
    return DataLoader(dataset, batch_size=batch_size, shuffle=True, collate_fn=together)


def repeated(batch: Any, count: int = 1) -> DataLoader[Any]:
    """A batch that contains all data, as many times as an epoch has steps."""
    return DataLoader([batch] * count, batch_size=None)  # pyright: ignore[reportArgumentType]


def together(rows: Any) -> Any:
    """The batch, unchanged: the `collate_fn` of a data set whose `__getitems__` collates."""
    return rows
