"""Table: data that are rows of numbers, handed out a batch at a time."""

from abc import ABC
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import odeflow as of


class Table(of.DataModule, ABC):
    """Data whose batches are tensors (B, D). Subclasses say what is trained on, and set these in `setup`.

    Attributes:
        val: (N, D), the validation part.
        test: (N, D), the test part, which predictions are made of, too.
        batch_size: Number of rows in a batch.
    """

    val: Tensor
    test: Tensor
    batch_size: int

    def val_dataloader(self) -> DataLoader[Tensor]:
        return batches(self.val, self.batch_size)

    def test_dataloader(self) -> DataLoader[Tensor]:
        return batches(self.test, self.batch_size)

    def predict_dataloader(self) -> DataLoader[Tensor]:
        return batches(self.test, self.batch_size)


class Rows(Dataset[Tensor]):
    """The rows of a table; those of a batch are taken at one stroke, which millions of rows need.

    Args:
        table: (N, D).
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Tensor:
        return self.table[index]

    def __getitems__(self, indices: list[int]) -> Tensor:
        """The rows of a batch, (B, D): what a DataLoader asks for where it is offered."""
        return self.table[indices]


def batches(table: Tensor, batch_size: int, shuffle: bool = False) -> DataLoader[Tensor]:
    """All rows, in batches that are tensors (B, D); the last may be smaller, so that none is lost.

    Args:
        table: (N, D).
        batch_size: Number of rows in a batch.
        shuffle: Whether each pass has an order of its own.

    Raises:
        SettingError: `batch_size` is not positive.
    """
    if batch_size < 1:
        raise of.SettingError(f"batch_size must be at least 1; got {batch_size}")
    return DataLoader(Rows(table), batch_size=batch_size, shuffle=shuffle, collate_fn=_together)


def _together(rows: Any) -> Any:
    """A batch as it is: its rows come together already."""
    return rows
