"""Task: the one base of LightningModules, which assembles dynamics, solver and gradient."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from torch import Tensor

from odeflow.errors import DataError, OdeflowError, PluginError
from odeflow.flow.flow import Flow
from odeflow.plugin.plugin import Plugin
from odeflow.plugin.spec import class_spec, mapping
from odeflow.training.data import DataModule
from odeflow.training.units import Units

KEY = "odeflow"
"""Under which a checkpoint keeps the specs."""


class Task(Plugin, LightningModule, ABC):
    """What is learned from what: subclasses say the loss, `LightningModule` does the rest.

    A subclass builds its layers, at least one `Flow` among them, in `__init__`, and implements `loss`. Its spec goes
    into every checkpoint, so that `odeflow.load` can build it again. The optimizer and the schedule come from the
    command line or from `configure_optimizers`; by default Adam with a step size of 1e-3.

    Attributes:
        carries_data: Whether the state of its flow is a vector of the data, with the flow's augmented dimensions, so
            that on the command line dynamics take their `dim` from the data where nobody gives it.
        units: How the numbers that it was trained on stand to those of the data's file; None as long as nobody knows.
            Whatever data a trained task meets are standardised by these. Losses, metrics and figures have the units of
            the batches; `odeflow sample` and `odeflow predict` write those of the file.
    """

    kind = "task"
    carries_data: ClassVar[bool] = False
    units: Units | None = None

    @abstractmethod
    def loss(self, batch: Any, stage: str) -> Tensor:
        """The loss of a batch.

        Args:
            batch: What the data plugin gives.
            stage: "train", "val" or "test", for the names of what is logged.

        Returns:
            (), to be minimised.
        """

    def figures(self, batch: Any) -> dict[str, Figure]:
        """Pictures of the present state of learning, by name, drawn from a validation batch. By default none."""
        return {}

    def test_figures(self) -> dict[str, Figure]:
        """Pictures of what a whole test found, by name; called in every process at its end. By default none."""
        return {}

    def sample(self, count: int) -> dict[str, Tensor]:
        """New samples from what was learned, for `odeflow sample`; a task that has some overrides this.

        Args:
            count: Their number.

        Returns:
            By name, each (count, …), in the units of batches: "x", the samples; and what is known of them, such as
            "log_prob", the logarithms of their densities, and "t", their times.

        Raises:
            OdeflowError: The task draws no samples, as by default.
        """
        raise OdeflowError(f"{type(self).__name__} does not implement sampling")

    def restored(self, prediction: Any, units: Units) -> Any:
        """What `predict_step` gave, in the units of the data's file; a task that predicts such numbers overrides this.

        Args:
            prediction: Of a batch.
            units: Those that the batch was standardised by.

        Returns:
            By default the prediction itself, as for probabilities, which have no units.
        """
        return prediction

    def sample_count(self, batch: Any) -> int:
        """Number of samples in a batch, for averages over an epoch."""
        first = batch[0] if isinstance(batch, (tuple, list)) else batch
        return len(first)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch, "train")
        self.log("train/loss", loss, prog_bar=True)
        count = self.sample_count(batch)
        self.log("train/loss_epoch", loss, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)
        return loss + self._penalty(count)

    def _penalty(self, count: int) -> Tensor | float:
        """The penalties of all flows' last solves, logged by name."""
        named = [pair for flow in self.modules() if isinstance(flow, Flow) for pair in flow.penalties.items()]
        for name, penalty in named:
            self.log(f"train/{name}", penalty, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)
        return sum((penalty for _, penalty in named), start=0.0)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._log_evaluation(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._log_evaluation(batch, "test")

    def _log_evaluation(self, batch: Any, stage: str) -> None:
        loss = self.loss(batch, stage)
        self.log(f"{stage}/loss", loss, prog_bar=True, batch_size=self.sample_count(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    @property
    def _data(self) -> DataModule | None:
        """The data plugin that a trainer has given, if there are both."""
        data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        return data if isinstance(data, DataModule) else None

    def setup(self, stage: str) -> None:
        """Takes the units of the first data that it meets, and gives them to all later ones."""
        if self._data is not None and self.units is None:
            self.units = self._data.units or Units()
        elif self._data is not None and self.units is not None:
            self._data.adopt(self.units)

    def teardown(self, stage: str) -> None:
        """Looks back on a run.

        Raises:
            DataError: There was no batch, so that nothing was done.
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
        except PluginError as problem:  # an hour of training must not be lost to this
            rank_zero_warn(f"the checkpoint keeps the weights, but not how the model was built: {problem}")


def stored_units(checkpoint: dict[str, Any]) -> Units | None:
    """The units of the data that a checkpoint's model was trained on; None if they were no data plugin.

    Raises:
        CheckpointError: They cannot be understood.
    """
    spec = class_spec((mapping(checkpoint.get(KEY)) or {}).get("data"))
    if spec is None:
        return None
    state = mapping(checkpoint.get(str(spec["class_path"]).rpartition(".")[2])) or {}  # Lightning's own key
    return Units.of(state["units"]) if "units" in state else Units()
