"""Drawn: synthetic points, redrawn in every epoch."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import odeflow as of
from odeflow_data.rows import RowData


class Drawn(RowData, ABC):
    """Points redrawn in each epoch, determined by the seed, not the global generator; fixed in validation and test.

    Args:
        batch_size: Number of points in a batch, in training and evaluation; the last one may be smaller.
        samples: Number of points in an epoch.
        val_size: Number of points for validation.
        test_size: Number of points for testing.
        seed: Seed of all points.

    Raises:
        SettingError: A number is not positive, or the seed is negative.
    """

    def __init__(self, batch_size: int, samples: int, val_size: int, test_size: int, seed: int) -> None:
        super().__init__()
        of.check_least(self, 1, batch_size=batch_size, samples=samples, val_size=val_size, test_size=test_size)
        of.check_least(self, 0, seed=seed)
        self.batch_size, self.val_size, self.test_size, self.seed = batch_size, val_size, test_size, seed
        self.samples, self.train = samples, Epochs(self._epoch, samples, batch_size)

    @abstractmethod
    def draw(self, count: int, seed: Sequence[int]) -> Tensor:
        """Points (count, D)."""

    def _epoch(self, number: int) -> Tensor:
        return self.draw(self.samples, (self.seed, 0, number))

    def setup(self, stage: str) -> None:
        self.val, self.test = self.draw(self.val_size, (self.seed, 1)), self.draw(self.test_size, (self.seed, 2))

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(self.train, batch_size=None)

    def state_dict(self) -> dict[str, int]:
        """The index of the epoch, so that a resumed run continues with new points."""
        return {"epoch": self.train.epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Makes the next epoch the one after the stored one."""
        self.train.epoch = state_dict["epoch"]


class Epochs(Dataset[Tensor]):
    """The batches of an epoch. The second request of a batch begins the next epoch, with new points.

    Hence each process of a distributed run sees its own share of the same epoch.

    Args:
        draw: The points (N, D) of an epoch, given the number of the epoch.
        samples: Number N of points.
        batch_size: Number of points in a batch.
    """

    def __init__(self, draw: Callable[[int], Tensor], samples: int, batch_size: int) -> None:
        self.draw, self.count, self.batch_size = draw, math.ceil(samples / batch_size), batch_size
        self.epoch, self.given, self.points = -1, set[int](), torch.empty(0)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.count:
            raise IndexError(index)
        if index in self.given or not len(self.points):
            self.epoch, self.given = self.epoch + 1, set()
            self.points = self.draw(self.epoch)
        self.given.add(index)
        return self.points[index * self.batch_size : (index + 1) * self.batch_size]
