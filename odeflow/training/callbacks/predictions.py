"""Predictions: saves the results of `odeflow predict`."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_info

from odeflow.errors import DataError, SettingError
from odeflow.training.callbacks.run_folder import run_folder
from odeflow.training.callbacks.trackers import MOST_ROWS, log_table
from odeflow.training.data import DataModule, data_of
from odeflow.training.files import replacing
from odeflow.training.table import check_suffix, write_table
from odeflow.training.task import Task
from odeflow.training.units import Units

if TYPE_CHECKING:
    import polars as pl


class Predictions(BasePredictionWriter):
    """Writes predictions, in the units of the data file even if batches are standardised.

    By default the list of batch predictions goes to `predictions.pt` in the run's folder, which `torch.load` returns;
    of several processes each writes its own, `predictions_<number>.pt`, with the places of its rows in the data, from 0
    on, as {"rows": …, "predictions": …}. With `output` one table is written instead, see `DataModule.table`. Loggers
    that take tables get the first rows of one.

    Args:
        output: The table's file, *.csv, *.parquet or *.npz.

    Raises:
        SettingError: `output` has another suffix.
    """

    def __init__(self, output: str | None = None) -> None:
        super().__init__(write_interval="epoch")
        self.output = None if output is None else Path(output)
        if self.output is not None:
            check_suffix(self.output)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks, before anything is predicted, that a table can be written.

        Raises:
            SettingError: There are several processes, or the data do not support tables.
        """
        super().setup(trainer, pl_module, stage)
        if self.output is None:
            return
        if trainer.world_size > 1:
            raise SettingError(
                f"--output writes one file, but {trainer.world_size} processes predict; set --trainer.devices 1"
            )
        data = data_of(trainer)
        if data is None or not data.tabular:
            name = "the data" if data is None else type(data).__name__
            raise SettingError(f"--output: {name} does not support tables; leave it out to write predictions.pt")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        restored = list(predictions)
        if isinstance(pl_module, Task):
            restored = [pl_module.restored(each, pl_module.units or Units()) for each in predictions]
        data = data_of(trainer)
        if self.output is not None and data is not None:
            table = data.table(restored)
            write_table(table, self.output)
            rank_zero_info(f"{len(table):,} rows are in {self.output}: {', '.join(table.columns)}")
            _log(trainer, table)
            return
        if trainer.world_size == 1 and any(not isinstance(logger, CSVLogger) for logger in trainer.loggers):
            _log(trainer, _table(data, restored))
        name, saved = "predictions.pt", restored
        if trainer.world_size > 1:
            rows = [int(index) for batches in batch_indices for batch in batches for index in batch]
            name, saved = f"predictions_{trainer.global_rank}.pt", {"rows": rows, "predictions": restored}
        with replacing(run_folder(trainer) / name) as part:
            torch.save(saved, part)


def _log(trainer: Trainer, table: "pl.DataFrame | None") -> None:
    """Gives the first rows of a table to the loggers."""
    if table is not None:
        for logger in trainer.loggers:
            log_table(logger, "predictions", table.head(MOST_ROWS))


def _table(data: DataModule | None, predictions: Sequence[Any]) -> "pl.DataFrame | None":
    """The predictions as a table: that of the data, or one of vectors, such as probabilities; None for others."""
    if data is not None and data.tabular:
        with contextlib.suppress(DataError):
            return data.table(predictions)
    vectors = [each for each in predictions if isinstance(each, torch.Tensor) and each.ndim == 2]
    if not vectors or len(vectors) < len(predictions):
        return None
    import polars as pl

    rows = torch.cat(vectors).float().cpu()
    return pl.DataFrame({f"prediction_{number}": rows[:, number].tolist() for number in range(rows.shape[1])})
