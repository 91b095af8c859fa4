"""Digits: scikit-learn's small images of handwritten digits, which come with it."""

from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset, random_split

import odeflow as of
from odeflow_data.full_batches import full_batches


class Digits(of.DataModule):
    """1,797 images of 8×8 pixels in ten classes: 1,197 to train, 300 to validate, 300 to test.

    Pixels take 17 values from 0 to 1.

    Source: Alpaydin & Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI, by way of scikit-learn.

    Args:
        batch_size: Number of images in a batch.
        seed: Seed of the split.
    """

    def __init__(self, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__()
        of.check_least(self, 1, batch_size=batch_size)
        of.check_least(self, 0, seed=seed)
        self.dim, self.num_classes = 64, 10
        self.shape = (1, 8, 8)
        self.batch_size, self.seed = batch_size, seed

    def setup(self, stage: str) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16  # pyright: ignore[reportAttributeAccessIssue]
        labels = torch.tensor(digits.target)  # pyright: ignore[reportAttributeAccessIssue]
        generator = torch.Generator().manual_seed(self.seed)
        self.train, self.val, self.test = random_split(TensorDataset(images, labels), [1197, 300, 300], generator)

    def training_part(self) -> Any:
        return self.train[:]

    def train_dataloader(self) -> DataLoader[object]:
        return full_batches(self, self.train, len(self.train), self.batch_size)

    def val_dataloader(self) -> DataLoader[object]:
        return of.evaluation_loader(self.val, 300)

    def test_dataloader(self) -> DataLoader[object]:
        return of.evaluation_loader(self.test, 300)
