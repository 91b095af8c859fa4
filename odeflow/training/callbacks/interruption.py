"""Interruption: how a run ends when it is told to."""

import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """Training was told to end, and ends between two steps."""


class Interruption(Callback):
    """Ends a run at SIGTERM and SIGINT (Ctrl-C), with the exit status 143 or 130.

    Training goes on to the end of the step, so that a checkpoint of it can be resumed as if nothing had happened;
    several processes end after the same step. A second signal ends it at once, as does the first elsewhere.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.waits = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.waits = True
        self._listen()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._agreed(trainer):  # the checkpoint of the last epoch's end is there
            raise SystemExit(self._status(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0  # no checkpoint holds gradients
        if stepped and not _evaluates_next(trainer, batch_idx) and self._agreed(trainer):
            raise Interrupted(self._status(trainer))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.waits and self._agreed(trainer):
            progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
            progress.reset()  # so that the whole validation is done when the run is resumed
            progress.increment_ready()
            progress.increment_started()
            raise Interrupted(self._status(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.waits = False
        if self._agreed(trainer):
            raise SystemExit(self._status(trainer))

    def _listen(self) -> None:
        """Takes the signals over from Lightning, which gives them back at the end."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.waits and self.received is None:
            self.received = number
            rank_zero_info(
                f"{signal.Signals(number).name}: stopping after this step; repeat the signal to stop at once"
            )
            return
        raise SystemExit(128 + number)

    def _agreed(self, trainer: Trainer) -> bool:
        """Whether any process was told to end."""
        return trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)

    def _status(self, trainer: Trainer) -> int:
        """The exit status; 0 of a process that another one started, which would take it for a failure."""
        return 0 if trainer.local_rank else 128 + (self.received or signal.SIGTERM)


def _evaluates_next(trainer: Trainer, batch_idx: int) -> bool:
    """Whether validation, or the end of the epoch, may follow this batch; Lightning would not make up for it."""
    seen = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return trainer.is_last_batch or (bool(trainer.val_check_batch) and (seen + 1) % trainer.val_check_batch == 0)
