"""LastCheckpoint: the latest state of a run, for resumption."""

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from odeflow.config.checkpoints import BEFORE, LAST
from odeflow.errors import SettingError
from odeflow.training.callbacks.interruption import Interrupted, resumes_exactly
from odeflow.training.callbacks.run_folder import run_folder
from odeflow.training.files import keep


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` after each training epoch, at the end of training, and on interruption.

    The file that it replaces becomes `last_but_one.ckpt`, from which a run is resumed if the newest one is damaged.

    Args:
        every_n_train_steps: Also write it within an epoch, every so many optimizer steps; by default not.

    Raises:
        SettingError: `every_n_train_steps` is not positive.
    """

    def __init__(self, every_n_train_steps: int | None = None) -> None:
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise SettingError(f"saving.every_n_train_steps must be positive; got {every_n_train_steps}")
        self.every = every_n_train_steps
        self.path = Path()
        self.step = -1
        self.due: float = math.inf

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = trainer.strategy.broadcast(str(run_folder(trainer)))
        self.path = Path(folder, "checkpoints", LAST)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._plan(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._complete(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= self.due and resumes_exactly(trainer, batch_idx):
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._complete(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Interrupted):
            self._write(trainer)

    def _complete(self, trainer: Trainer) -> None:
        """Writes the changes since the end of the epoch: schedules that follow a metric are stepped after it."""
        moved = any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs)
        if trainer.global_step and (moved or trainer.global_step != self.step):
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and self.path.is_file():
            keep(self.path, self.path.with_name(BEFORE))
        trainer.save_checkpoint(self.path, weights_only=False)
        self.step = trainer.global_step
        self._plan(trainer)

    def _plan(self, trainer: Trainer) -> None:
        """Sets the step of the next checkpoint within an epoch."""
        if self.every is not None:
            self.due = (trainer.global_step // self.every + 1) * self.every
