"""DataModule: the base of data plugins."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from odeflow.errors import DataError
from odeflow.plugin.plugin import Plugin
from odeflow.training.units import Units


class DataModule(Plugin, LightningDataModule, ABC):
    """Data for training, validation and test, whose sizes are known before they are read.

    A subclass announces its sizes as attributes set in `__init__`; the command line passes them on to the task:
    `dim` (length of a vector, or of an image's values), `channels`, `shape` (of an image), `num_classes` and
    `num_outputs` (length of a target), as far as they make sense.

    A subclass that standardises sets `standardises`, and in `setup` fits `units` if they are None; else it keeps to
    them: they are those of the model, fitted to what it was trained on. They go into every checkpoint.

    Attributes:
        units: How the numbers of batches stand to those of the file; None as long as nobody knows, or where they are
            the same.
    """

    kind = "data"
    standardises: ClassVar[bool] = False
    units: Units | None = None

    @abstractmethod
    def train_dataloader(self) -> DataLoader[object]:
        """Batches to train on."""

    @abstractmethod
    def val_dataloader(self) -> DataLoader[object]:
        """Batches to validate on."""

    def adopt(self, units: Units) -> None:
        """Gives batches the units of a model, in place of those fitted to this file.

        Raises:
            DataError: The data do not standardise, but the model's did.
        """
        if units == (self.units or Units()):
            return
        if not self.standardises:
            raise DataError(
                f"the model was trained on standardised data, which {type(self).__name__} does not provide; test it on "
                "data of the kind that it was trained on"
            )
        self.units = units
        if self.trainer is not None and self.trainer.state.fn is not None:  # `setup` was called with other units
            self.setup(self.trainer.state.fn.value)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the units, where batches have others than the file."""
        return {} if self.units in (None, Units()) else {"units": self.units.plain()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the units of a checkpoint."""
        if "units" in state_dict:
            self.adopt(Units.of(state_dict["units"]))


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
