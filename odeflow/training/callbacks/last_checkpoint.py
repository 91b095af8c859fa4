"""LastCheckpoint: the latest state of a run, for resumption."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from odeflow.training.callbacks.interruption import Interrupted
from odeflow.training.callbacks.run_folder import run_folder


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` after each training epoch, at the end of training, and on interruption."""

    def __init__(self) -> None:
        self.path = Path()
        self.step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = trainer.strategy.broadcast(str(run_folder(trainer)))
        self.path = Path(folder, "checkpoints", "last.ckpt")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._complete(trainer)

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
        trainer.save_checkpoint(self.path, weights_only=False)
        self.step = trainer.global_step
