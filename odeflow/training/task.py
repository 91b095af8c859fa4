"""Task: the base class of all LightningModules."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from torch import Tensor

from odeflow.errors import CheckpointError, DataError, OdeflowError, PluginError
from odeflow.flow.flow import Flow
from odeflow.plugin import registry
from odeflow.plugin.plugin import Plugin
from odeflow.plugin.spec import class_spec, mapping
from odeflow.training.data import DataModule, data_of
from odeflow.training.units import Units

if TYPE_CHECKING:
    import polars as pl

KEY = "odeflow"
"""Key of the specs in a checkpoint."""
Baseline = Callable[[Tensor], Tensor]
"""Inputs of a batch ↦ predictions in the form of the task's own."""


class Task(Plugin, LightningModule, ABC):
    """A learning task. Subclasses define the loss; `LightningModule` does the rest.

    A subclass builds its layers, usually with a `Flow` among them, in `__init__`, and implements `loss`. Its spec is
    stored in every checkpoint, so that `odeflow.load` can rebuild it. The optimizer and the schedule come from the
    command line or from `configure_optimizers`; the default is Adam with learning rate 1e-3.

    Attributes:
        carries_data: Whether the state of its flow is a data vector plus augmented dimensions. If so, the command line
            sets the `dim` of the dynamics from the data by default.
        units: The map from the numbers of its training batches to those of the data file; None if unknown. A trained
            task standardises all data by these units. Losses and metrics are in the units of the batches, figures,
            `odeflow sample` and `odeflow predict` in those of the file.
        num_conditions: Length c of a condition; if positive, `sample` takes (count, condition), the latter (count, c).
        num_covariates: Number of covariates of its series, None if it does not support them; if positive, `sample`
            takes (count, series), of B series that have them, and returns "x" (count, B, T, d), at their times.
        data_spec: The spec of the data plugin that it was trained on, by which `odeflow.predict` reads a table; None if
            unknown.
        baselines: Simple models by name, fitted to the training part of the run's data; empty if the data do not offer
            it. `log_baselines` logs their metrics.
    """

    kind = "task"
    carries_data: ClassVar[bool] = False
    units: Units | None = None
    num_conditions: int = 0
    num_covariates: int | None = None
    data_spec: dict[str, Any] | None = None
    baselines: Mapping[str, Baseline] = MappingProxyType({})

    @abstractmethod
    def loss(self, batch: Any, stage: str) -> Tensor:
        """The loss of a batch.

        Args:
            batch: A batch of the data plugin.
            stage: "train", "val" or "test": the prefix of logged metrics.

        Returns:
            (), the value to minimise.
        """

    def fit_baselines(self, part: Any) -> Mapping[str, Baseline]:
        """Fits the baselines. By default there are none.

        Args:
            part: The training part of the data as a single batch.
        """
        return {}

    def log_baselines(self, batch: Any, stage: str) -> None:
        """Logs metrics of simple models beside the task's own, with the model's name as their end. By default none.

        Args:
            batch: A batch of validation or test.
            stage: "val" or "test".
        """

    def figures(self, batch: Any) -> dict[str, Figure]:
        """Figures by name, drawn from a validation batch during training. By default none."""
        return {}

    def test_figures(self) -> dict[str, Figure]:
        """Figures by name of the whole test, called in every process at its end. By default none."""
        return {}

    def tables(self) -> "dict[str, pl.DataFrame]":
        """Results of a training by name, such as estimates of parameters, called at its end. By default none."""
        return {}

    def sample(self, count: int) -> dict[str, Tensor]:
        """Draws samples from the model, for `odeflow sample`. Generative tasks override this.

        Args:
            count: Number of samples.

        Returns:
            Tensors by name, each (count, …), in the units of batches: "x", the samples, and optionally "log_prob",
            their log-densities, and "t", their times.

        Raises:
            OdeflowError: The task does not implement sampling, as by default.
        """
        raise OdeflowError(f"{type(self).__name__} does not implement sampling")

    def usual_conditions(self, count: int) -> Tensor | None:
        """The conditions of samples for which none are given, (count, num_conditions); by default None, as unknown.

        Args:
            count: Number of samples.
        """
        return None

    def restored(self, prediction: Any, units: Units) -> Any:
        """A prediction in the units of the data file. Tasks whose predictions have units override this.

        Args:
            prediction: The result of `predict_step` for a batch.
            units: The units by which the batch was standardised.

        Returns:
            The restored prediction; by default the prediction itself, as for probabilities, which have no units.
        """
        return prediction

    def sample_count(self, batch: Any) -> int:
        """Number of samples in a batch: its weight in averages over an epoch."""
        first = batch[0] if isinstance(batch, (tuple, list)) else batch
        return len(first)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._checked_loss(batch, "train")
        self.log("train/loss", loss, prog_bar=True)
        count = self.sample_count(batch)
        self.log("train/loss_epoch", loss, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)
        return loss + self._penalty(count)

    def _checked_loss(self, batch: Any, stage: str) -> Tensor:
        """The loss of a batch.

        Raises:
            PluginError: It is not a tensor of shape ().
        """
        loss: Any = self.loss(batch, stage)
        if isinstance(loss, Tensor) and loss.shape == ():
            return loss
        came = f"a tensor {tuple(loss.shape)}; take its mean" if isinstance(loss, Tensor) else repr(loss)
        hint = ": is a return missing?" if loss is None else ""
        raise PluginError(f"{type(self).__name__}.loss must return one number, a tensor of shape (); got {came}{hint}")

    def _penalty(self, count: int) -> Tensor | float:
        """The sum of the penalties of all flows' last solves, logged by name."""
        named = [pair for flow in self.modules() if isinstance(flow, Flow) for pair in flow.penalties.items()]
        for name, penalty in named:
            self.log(f"train/{name}", penalty, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)
        return sum((penalty for _, penalty in named), start=0.0)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._log_evaluation(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._log_evaluation(batch, "test")

    def _log_evaluation(self, batch: Any, stage: str) -> None:
        loss = self._checked_loss(batch, stage)
        self.log(f"{stage}/loss", loss, prog_bar=True, batch_size=self.sample_count(batch), sync_dist=True)
        self.log_baselines(batch, stage)

    @classmethod
    def load_from_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        checkpoint_path: str | Path,
        map_location: torch.device | str | None = None,
        **options: Any,
    ) -> Self:
        """Rebuilds a task from a checkpoint, in training mode, as Lightning does.

        `odeflow.load` does the same without the class, in evaluation mode, and also imports plugins that are not
        installed. Both read the checkpoint without executing code from it.

        Args:
            checkpoint_path: The checkpoint.
            map_location: The device; the CPU by default.
            **options: Arguments of the constructor that replace the stored ones.

        Raises:
            CheckpointError: The file is not a checkpoint of this class, or its weights do not match.
            PluginError: A required plugin is not registered, or an option is invalid.
        """
        from odeflow.training.checkpoint import restore, specs  # which import this file

        registry.discover()
        spec = specs(checkpoint_path)["model"]
        task = registry.build({**spec, "init_args": {**spec.get("init_args", {}), **options}})
        if not isinstance(task, cls):
            name = type(task).__name__
            raise CheckpointError(
                f"{checkpoint_path} holds a {name}, not a {cls.__name__}: use {name}.load_from_checkpoint"
            )
        restored = cast(Self, restore(task, checkpoint_path).train())
        return restored if map_location is None else restored.to(map_location)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    @property
    def _data(self) -> DataModule | None:
        """The trainer's data plugin; None without one."""
        return data_of(self._trainer)

    def setup(self, stage: str) -> None:
        """Adopts the units of the first data, and passes them to all later data; fits the baselines to the data."""
        if self._data is None:
            return
        if self.units is None:
            self.units = self._data.units or Units()
        else:
            self._data.adopt(self.units)
        self.data_spec = self.data_spec or self._data.remembered_spec
        part = None if stage == "predict" else self._data.training_part()
        self.baselines = {} if part is None else self.fit_baselines(part)

    def teardown(self, stage: str) -> None:
        """Checks that the run processed data.

        Raises:
            DataError: There was no batch.
        """
        trainer = self.trainer
        part, limit, count = {
            "fit": ("train", trainer.limit_train_batches, trainer.num_training_batches),
            "validate": ("val", trainer.limit_val_batches, sum(trainer.num_val_batches)),
            "test": ("test", trainer.limit_test_batches, sum(trainer.num_test_batches)),
            "predict": ("predict", trainer.limit_predict_batches, sum(trainer.num_predict_batches)),
        }[stage]
        if 0 in (limit, count):
            name = type(self._data).__name__ if self._data else "the data"
            why = f"; limit_{part}_batches is 0" if limit == 0 else ""
            raise DataError(f"{TrainerFn(stage).value} did nothing: {name} returned no batches{why}")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.units = stored_units(checkpoint)
        if self._data is not None and self.units is not None:
            self._data.adopt(self.units)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        parts = {"model": self, "data": self._data}
        try:
            checkpoint[KEY] = {name: part.spec for name, part in parts.items() if part is not None}
        except PluginError as problem:  # must not lose a finished training
            rank_zero_warn(f"the checkpoint keeps the weights, but not how the model was built: {problem}")


def stored_data(checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """The spec of the data that a checkpoint's model was trained on; None without a data plugin."""
    return class_spec((mapping(checkpoint.get(KEY)) or {}).get("data"))


def stored_units(checkpoint: dict[str, Any]) -> Units | None:
    """The units of the data that a checkpoint's model was trained on; None without a data plugin.

    Raises:
        CheckpointError: The stored units are malformed.
    """
    spec = stored_data(checkpoint)
    if spec is None:
        return None
    state = mapping(checkpoint.get(str(spec["class_path"]).rpartition(".")[2])) or {}  # the key that Lightning uses
    return Units.of(state["units"]) if "units" in state else Units()
