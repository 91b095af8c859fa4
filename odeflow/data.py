"""DataModule: the base of data plugins."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from odeflow.plugin import Plugin


class DataModule(Plugin, LightningDataModule, ABC):
    """Data for training, validation and test, whose sizes are known before they are read.

    A subclass announces its sizes as attributes set in `__init__`; the command line passes them on to the task:
    `dim` (length of a vector, or of an image's values), `channels`, `shape` (of an image) and `num_classes`, as far as
    they make sense.
    """

    kind = "data"

    @abstractmethod
    def train_dataloader(self) -> DataLoader[object]:
        """Batches to train on."""

    @abstractmethod
    def val_dataloader(self) -> DataLoader[object]:
        """Batches to validate on."""


class Series(NamedTuple):
    """A batch of time series, each observed at times of its own, partly or wholly.

    Attributes:
        t: (B, T), the times of each series in increasing order; at the end padded by its last time.
        y: (B, T, d), the values; 0 where there is none, and in the padding.
        seen: (B, T, d), bool: which values are known to the model. False in the padding.
        target: (B, T, d), bool: which values it is to predict, among them what it saw if it is to reconstruct that.
        label: (B,), a class of each series; None where there are no classes.
    """

    t: Tensor
    y: Tensor
    seen: Tensor
    target: Tensor
    label: Tensor | None = None


class Trajectories(NamedTuple):
    """A batch of trajectories observed at common times.

    Attributes:
        t: (T,), the times.
        y: (T, B, d), the states.
    """

    t: Tensor
    y: Tensor
