"""Epochs: points without end, of which every epoch brings new ones."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Epochs(Dataset[Tensor]):
    """The batches of an epoch; asking again for one that was given begins the next epoch, with new points.

    So every process of a distributed run sees its own share of the same epoch.

    Args:
        draw: The points (N, D) of an epoch, given 0 and the number of the epoch.
        samples: Number N of points.
        batch_size: Number of points in a batch.
    """

    def __init__(self, draw: Callable[[int, int], Tensor], samples: int, batch_size: int) -> None:
        self.draw, self.count, self.batch_size = draw, math.ceil(samples / batch_size), batch_size
        self.epoch, self.given, self.points = -1, set[int](), torch.empty(0)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.count:
            raise IndexError(index)
        if index in self.given or not len(self.points):
            self.epoch, self.given = self.epoch + 1, set()
            self.points = self.draw(0, self.epoch)
        self.given.add(index)
        return self.points[index * self.batch_size : (index + 1) * self.batch_size]
