"""DataModule: the base class of data plugins."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from odeflow.errors import DataError
from odeflow.plugin.plugin import Plugin
from odeflow.training.units import Units

if TYPE_CHECKING:
    import polars as pl


class DataModule(Plugin, LightningDataModule, ABC):
    """Data for training, validation and testing. Their sizes are known before they are read.

    A subclass sets its sizes as attributes in `__init__`, where applicable: `dim` (length of a vector, or number of
    values of an image), `shape` (of an image, (C, H, W)), `num_classes`, `num_outputs` (length of a target, or number
    of outcomes of a series) and `num_covariates` (of series, static ones included). The command line passes them to the
    task, as the shape of a vector (dim,).

    A subclass that standardises sets `standardises`. If `units` is None, its `setup` fits it; otherwise `setup` uses
    the given units, which were fitted to the model's training data. Every checkpoint contains them.

    A subclass that implements `table` sets `tabular`.

    Attributes:
        units: The map from the numbers of batches to those of the file; None if it is unknown or the identity.
        class_counts: The number of training samples of each class, known after `setup`; None if there are no classes,
            or the data do not state it.
        period: The period of time series in the file's time, for the seasonal baseline; None if there is none.
        time: The name of the file's times, for figures; "" if they have none.
        from_start: Whether the times of a batch count from the start of each sample, not from the origin of the units.
    """

    kind = "data"
    standardises: ClassVar[bool] = False
    tabular: ClassVar[bool] = False
    units: Units | None = None
    class_counts: Sequence[int] | None = None
    period: float | None = None
    time: str = ""
    from_start: ClassVar[bool] = False

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of an input: `shape`, or (dim,) of a vector; None if the class sets neither."""
        dim = getattr(self, "dim", None)
        return getattr(self, "shape", None if dim is None else (dim,))

    @abstractmethod
    def train_dataloader(self) -> DataLoader[object]:
        """Training batches."""

    @abstractmethod
    def val_dataloader(self) -> DataLoader[object]:
        """Validation batches."""

    def predict_dataloader(self) -> DataLoader[object]:
        """The batches to predict; by default those of the test."""
        return self.test_dataloader()

    def training_part(self) -> Any | None:
        """The training part as a single batch, to which baselines are fitted; by default None, none are fitted."""
        return None

    def log_density(self, x: Tensor) -> Tensor | None:
        """The true log-density of vectors (B, d) in nats, (B,); by default None, it is not known."""
        return None

    def table(self, predictions: Sequence[Any]) -> "pl.DataFrame":
        """The predictions as a table with the names of the file, for `odeflow predict --output`.

        Args:
            predictions: Predictions of the first batches of `predict_dataloader`, in the file's units.

        Raises:
            DataError: The data do not support tables, as by default, or not of such predictions.
        """
        raise DataError(f"{type(self).__name__} does not support tables")

    def adopt(self, units: Units) -> None:
        """Standardises batches by a model's units instead of those fitted to this file.

        Raises:
            DataError: The model was trained on standardised data, and this class does not standardise.
        """
        if units == (self.units or Units()):
            return
        if not self.standardises:
            raise DataError(
                f"the model was trained on standardised data, which {type(self).__name__} does not provide; test it on "
                "data of the kind that it was trained on"
            )
        self.units = units
        if self.trainer is not None and self.trainer.state.fn is not None:  # `setup` has been called with other units
            self.setup(self.trainer.state.fn.value)

    def state_dict(self) -> dict[str, Any]:
        """The units, for a checkpoint; empty if they are unknown or trivial."""
        return {} if self.units in (None, Units()) else {"units": self.units.plain()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Adopts the units of a checkpoint."""
        if "units" in state_dict:
            self.adopt(Units.of(state_dict["units"]))


def data_of(trainer: Trainer | None) -> DataModule | None:
    """The data plugin of a trainer; None without one."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, DataModule) else None


class Series(NamedTuple):
    """A batch of time series with per-sample observation times and possibly missing values.

    Attributes:
        t: (B, T), the times of each series in order, padded with its last time.
        y: (B, T, d), the values; 0 where missing and in the padding.
        seen: (B, T, d), bool: the values given to the model. False in the padding.
        target: (B, T, d), bool: the values to predict; for reconstruction they include the seen ones.
        label: (B,), the class of each series; None if there are no classes.
        key: (B,), a whole number that identifies each series, the same in every batch; None if they have no identity.
        covariates: (B, T, c), external inputs at these times, also where nothing is seen or predicted, as in the
            future; nan where unknown and in the padding. None if there are none.
        static: (B, s), inputs that are constant in each series; None if there are none.
        jump: (B, T, d), what is added to the values right after each time, such as doses; None if nothing is.
        outcome: (B, k), numbers that each series as a whole has, such as a rating; None if there are none.
    """

    t: Tensor
    y: Tensor
    seen: Tensor
    target: Tensor
    label: Tensor | None = None
    key: Tensor | None = None
    covariates: Tensor | None = None
    static: Tensor | None = None
    jump: Tensor | None = None
    outcome: Tensor | None = None

    def take(self, index: Tensor | slice) -> "Series":
        """The series with these indices, (B,)."""
        return Series(*(None if part is None else part[index] for part in self))  # pyright: ignore[reportArgumentType]

    @classmethod
    def observed(cls, t: Tensor, y: Tensor, first_only: bool = False) -> "Series":
        """Series in which every value is seen and to be predicted, except for missing ones, which are NaN.

        Args:
            t: (T,), common times, or (B, T), those of each series.
            y: (B, T, d), the values.
            first_only: Whether only the values at the first time are seen, for forecasts.
        """
        target = ~y.isnan()
        seen = target.clone()
        if first_only:
            seen[:, 1:] = False
        return cls(t.expand(y.shape[:2]), y.masked_fill(~target, 0.0), seen, target)
