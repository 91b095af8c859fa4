"""Predictions: saves the results of `odeflow predict`."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from odeflow.training.callbacks.run_folder import run_folder
from odeflow.training.files import replacing
from odeflow.training.task import Task
from odeflow.training.units import Units


class Predictions(BasePredictionWriter):
    """Writes the list of batch predictions to `predictions.pt`; several processes write one file each.

    Predicted values and densities are in the units of the data file, even if batches are standardised.
    `torch.load("predictions.pt")` returns the list.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        name = "predictions.pt" if trainer.world_size == 1 else f"predictions_{trainer.global_rank}.pt"
        restored = list(predictions)
        if isinstance(pl_module, Task):
            restored = [pl_module.restored(each, pl_module.units or Units()) for each in predictions]
        with replacing(run_folder(trainer) / name) as part:
            torch.save(restored, part)
