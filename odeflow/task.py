"""Task: the one base of LightningModules, which assembles dynamics, solver and gradient."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from torch import Tensor

from odeflow.data import DataModule
from odeflow.errors import OdeflowError, PluginError
from odeflow.flow import Flow
from odeflow.plugin import Plugin

KEY = "odeflow"
"""Under which a checkpoint keeps the specs."""


class Task(Plugin, LightningModule, ABC):
    """What is learned from what: subclasses say the loss, `LightningModule` does the rest.

    A subclass builds its layers, at least one `Flow` among them, in `__init__`, and implements `loss`. Its spec goes
    into every checkpoint, so that `odeflow.load` can build it again. The optimizer and the schedule come from the
    command line or from `configure_optimizers`; by default Adam with a step size of 1e-3.
    """

    kind = "task"

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
            By name, each (count, …): "x", the samples, and what is known of them, such as "log_prob".

        Raises:
            OdeflowError: The task draws no samples, as by default.
        """
        raise OdeflowError(f"{type(self).__name__} draws no samples: it learns no density that has some")

    def batch_size(self, batch: Any) -> int:
        """Number of samples in a batch, for averages over an epoch."""
        first = batch[0] if isinstance(batch, (tuple, list)) else batch
        return len(first)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch, "train")
        self.log("train/loss", loss, prog_bar=True)
        count = self.batch_size(batch)
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
        self.log(f"{stage}/loss", loss, prog_bar=True, batch_size=self.batch_size(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data = getattr(self.trainer, "datamodule", None)
        parts = {"model": self, "data": data if isinstance(data, DataModule) else None}
        try:
            checkpoint[KEY] = {name: part.spec for name, part in parts.items() if part is not None}
        except PluginError as problem:  # an hour of training must not be lost to this
            rank_zero_warn(f"the checkpoint keeps the weights, but not how the model was built: {problem}")
