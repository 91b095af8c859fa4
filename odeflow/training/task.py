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

from odeflow.engine.output.solution import SolveError
from odeflow.errors import CheckpointError, DataError, OdeflowError, PluginError, SettingError
from odeflow.flow.flow import Flow
from odeflow.plugin import registry
from odeflow.plugin.plugin import Plugin
from odeflow.plugin.spec import class_spec, mapping
from odeflow.training.data import DataModule, data_of
from odeflow.training.faults import Faults, faults_of
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

    def guide(self, scale: float) -> None:
        """Sets how strongly samples follow their conditions, for `odeflow sample --guidance`: 1 is as the data do.

        Args:
            scale: The scale of the guidance.

        Raises:
            OdeflowError: The task has no guidance, as by default.
        """
        raise OdeflowError(f"{type(self).__name__} has no guidance: leave --guidance out")

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
        """Number of samples in a batch, over which its loss is a mean: its weight in averages over an epoch."""
        first = batch[0] if isinstance(batch, (tuple, list)) else batch
        return len(first)

    def loss_weight(self, batch: Any) -> Tensor | float:
        """(), the weight of a training batch among those of all processes; by default `sample_count`.

        Tasks whose loss is a weighted mean override this with the sum of the weights, so that several processes
        minimise the mean over all of their samples.
        """
        return self.sample_count(batch)

    def log_mean(self, name: str, value: Tensor, weight: Tensor | float, prog_bar: bool = False) -> None:
        """Logs the mean of a value over the batches of an epoch in all processes.

        Args:
            name: Name of the metric.
            value: (), the value of a batch.
            weight: The weight of the batch, usually its number of samples.
            prog_bar: Whether the progress bar shows it.
        """
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "sync_dist": True}
        # a float: Lightning divides the sum of integer weights by the number of processes, and rounds it down
        self.log(name, value, prog_bar=prog_bar, batch_size=cast(int, float(weight)), **options)

    def summed(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes, without a gradient; with one process the tensor itself.

        All processes must call it at the same place.
        """
        if self._trainer is None or self.trainer.world_size == 1:
            return value
        return cast(Tensor, self.trainer.strategy.reduce(value.detach().clone(), reduce_op="sum"))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        faults = faults_of(self._trainer)
        loss = self._train_loss(batch) if faults is None else faults.guarded(self, batch, self._train_loss)
        if loss is None:
            return Faults.no_loss(self)
        self.log("train/loss", loss, prog_bar=True)
        weight = self.loss_weight(batch)
        self.log_mean("train/loss_epoch", loss, weight)
        return self._in_proportion(loss + self._penalty(weight), weight)

    def _in_proportion(self, loss: Tensor, weight: Tensor | float) -> Tensor:
        """The loss times W w / Σ w: strategies average the gradients of W processes, whatever weights w they have."""
        if self._trainer is None or self.trainer.world_size == 1:
            return loss
        weight = torch.as_tensor(weight, dtype=torch.float64, device=self.device)
        return loss * (self.trainer.world_size * weight / self.summed(weight)).to(loss)

    def _train_loss(self, batch: Any) -> Tensor:
        return self._checked_loss(batch, "train")

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """As Lightning; a failed solve of the backward pass is left to the callback `Faults`."""
        faults = faults_of(self._trainer)
        if faults is None or self.trainer.world_size > 1:  # where another process waits for gradients
            super().backward(loss, *args, **kwargs)
            return
        with faults.catching(self):
            super().backward(loss, *args, **kwargs)

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

    def _penalty(self, weight: Tensor | float) -> Tensor | float:
        """The sum of the penalties of all flows' last solves, logged by name."""
        named = [pair for flow in self.modules() if isinstance(flow, Flow) for pair in flow.penalties.items()]
        for name, penalty in named:
            self.log_mean(f"train/{name}", penalty, weight)
        return sum((penalty for _, penalty in named), start=0.0)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._log_evaluation(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._log_evaluation(batch, "test")

    def _log_evaluation(self, batch: Any, stage: str) -> None:
        fitting = self._trainer is not None and self.trainer.state.fn is TrainerFn.FITTING
        faults = faults_of(self._trainer) if fitting else None
        loss = self._evaluated(batch, stage) if faults is None else faults.omitting(self, batch, self._evaluated)
        if loss is not None:  # else nothing is logged: values must be logged in the same order in all processes
            self.log_mean(f"{stage}/loss", loss, self.sample_count(batch), prog_bar=True)
            self.log_baselines(batch, stage)

    def _evaluated(self, batch: Any, stage: str) -> Tensor:
        """The loss of a batch; the error of a solve that fails says in which evaluation."""
        try:
            return self._checked_loss(batch, stage)
        except SolveError as error:
            error.args = (f"{self._evaluation(stage)}: {error}",)
            raise

    def _evaluation(self, stage: str) -> str:
        """Which evaluation this is, for messages."""
        if self._trainer is None or stage == "test":
            return stage
        if self.trainer.sanity_checking:
            return "in the check before training, which --trainer.num_sanity_val_steps 0 leaves out"
        return f"in validation after epoch {self.current_epoch} (step {self.global_step})"

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

    def configure_model(self) -> None:
        """Refuses to be sharded.

        Raises:
            SettingError: The strategy is `ModelParallelStrategy`.
        """
        if self.device_mesh is not None:
            raise SettingError(
                "ModelParallelStrategy shards parameters, which tasks do not support: solvers evaluate a field many "
                "times, and gradients read its parameters between evaluations. Use --trainer.strategy ddp"
            )

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
