"""Pieces: random stretches of long series, to train on."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

import odeflow as of


class Pieces(Dataset[of.Series]):
    """Random batches of pieces; each item is a whole batch.

    Args:
        t: (T,), the times of a piece, which all share.
        y: (N, d), the series, one after another.
        starts: (S,), indices at which a piece may begin.
        batch_size: Number of pieces in a batch.
        steps: Number of batches in an epoch.
        noise: Standard deviation of the noise that is added.
    """

    def __init__(self, t: Tensor, y: Tensor, starts: Tensor, batch_size: int, steps: int, noise: float = 0.0) -> None:
        self.t, self.y, self.starts = t, y, starts
        self.batch_size, self.steps, self.noise = batch_size, steps, noise

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> of.Series:
        if index >= self.steps:
            raise IndexError(index)
        starts = self.starts[torch.randint(len(self.starts), (self.batch_size,))]
        y = self.y[starts[:, None] + torch.arange(len(self.t))]
        return of.Series.observed(self.t, y + self.noise * torch.randn_like(y))
