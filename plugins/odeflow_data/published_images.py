"""PublishedImages: labelled images with a published training and test part."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.full_batches import full_batches
from odeflow_data.pixels import Pixels, channel_moments, standardised
from odeflow_data.rows import together, whole_batches


class PublishedImages(of.DataModule, ABC):
    """Images that stay in memory as bytes. The last `val_size` training images, shuffled by `seed`, validate.

    Subclasses set `shape` and `num_classes`, and in `units` any units other than those of the training images.

    Args:
        count: Number of published training images.
        batch_size: Number of images in a training batch.
        val_size: Number of training images kept for validation.
        augment: Whether training images are augmented.
        seed: Seed of the split.

    Attributes:
        root: The folder of the files.
        classes: The names of the classes; empty if they are numbers.

    Raises:
        SettingError: An option is out of range.
    """

    standardises = True
    shape: tuple[int, ...]
    num_classes: int
    root: Path
    classes: tuple[str, ...] = ()

    def __init__(self, count: int, batch_size: int, val_size: int, augment: bool, seed: int) -> None:
        super().__init__()
        of.check_least(self, 1, batch_size=batch_size)
        of.check_least(self, 0, seed=seed)
        of.check_range(self, f"[1, {count - 1}]", val_size=val_size)
        self.batch_size, self.val_size, self.augment, self.seed = batch_size, val_size, augment, seed

    @abstractmethod
    def read(self, part: str) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W), as bytes, and labels (N,), of "train" or "test"."""

    @abstractmethod
    def augmented(self, images: Tensor, dark: Tensor) -> Tensor:
        """Random changes of a training batch.

        Args:
            images: (B, C, H, W), standardised.
            dark: (C, 1, 1), the values of black.
        """

    def setup(self, stage: str) -> None:
        training = stage in ("fit", "validate")
        if stage != "predict" or self.units is None:
            images, labels = self.read("train")
            if len(images) <= self.val_size:
                raise of.DataError(
                    f"{self.root} holds {len(images)} training images; val_size = {self.val_size} takes all"
                )
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
            train, val = order[: -self.val_size], order[-self.val_size :]
            self.units = self.units or of.Units(*channel_moments(images[train]), classes=self.classes)
            self.train, self.val = (Pixels(images[rows], labels[rows], self.units) for rows in (train, val))
            self.class_counts = labels[train].bincount(minlength=self.num_classes).tolist()
        if not training:
            self.test = Pixels(*self.read("test"), self.units)

    def training_part(self) -> Any:
        return self.train.thinned()

    def train_dataloader(self) -> DataLoader[Any]:
        return full_batches(self, self.train, len(self.train), self.batch_size, together)

    def val_dataloader(self) -> DataLoader[Any]:
        return whole_batches(self.val, 1000)

    def test_dataloader(self) -> DataLoader[Any]:
        return whole_batches(self.test, 1000)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not (self.augment and self.trainer is not None and self.trainer.training):
            return batch
        images, labels = batch
        dark = standardised(torch.zeros(self.shape[0], 1, 1), self.units or of.Units())
        return self.augmented(images, dark.to(images)), labels
