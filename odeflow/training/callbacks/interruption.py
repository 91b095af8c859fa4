"""Interruption: ends a run cleanly on a signal."""

import signal
import subprocess
import threading
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from odeflow.config import slurm

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """Training received a signal and ends between two steps."""


class Interruption(Callback):
    """Ends a run on SIGTERM or SIGINT (Ctrl-C), with exit status 143 or 130.

    Training continues to the end of the step, so that its checkpoint resumes exactly. Several processes end after the
    same step. A second signal ends the run immediately, as does the first one outside of training.

    In a job of SLURM so does the signal by which it announces the end of the time, by default SIGUSR1; the job is then
    put into the queue again. Lightning does it in the midst of a step.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.waits = False
        self.requeue: int | None = None  # the signal of SLURM

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    on_test_start = on_predict_start = on_validation_start = on_sanity_check_start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.waits = True
        self._listen(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._agreed(trainer):  # the checkpoint of the epoch's end is written
            raise SystemExit(self._status(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if resumes_exactly(trainer, batch_idx) and self._agreed(trainer):
            raise Interrupted(self._status(trainer))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.waits and self._agreed(trainer):
            progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
            progress.reset()  # the resumed run repeats the whole validation
            progress.increment_ready()
            progress.increment_started()
            for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
                if isinstance(callback, WeightAveraging):  # the checkpoint is of the weights that are trained
                    callback.on_validation_epoch_end(trainer, pl_module)
            raise Interrupted(self._status(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.waits = False
        if self._agreed(trainer):
            raise SystemExit(self._status(trainer))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Puts a job of SLURM into the queue again, once `LastCheckpoint` has written the checkpoint."""
        if trainer.is_global_zero and isinstance(exception, SystemExit) and self.received == self.requeue is not None:
            requeue()

    def _listen(self, trainer: Trainer) -> None:
        """Takes the signal handlers over from Lightning, which restores them at the end."""
        environment = trainer._accelerator_connector.cluster_environment  # pyright: ignore[reportPrivateUsage]
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self.requeue = environment.requeue_signal
        if threading.current_thread() is threading.main_thread():
            for number in (*SIGNALS, *([] if self.requeue is None else [self.requeue])):
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
        """Whether any process received a signal."""
        return trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)

    def _status(self, trainer: Trainer) -> int:
        """The exit status; 0 in a child process, whose parent would report a failure otherwise."""
        return 0 if trainer.local_rank else 128 + (self.received or signal.SIGTERM)


def requeue() -> None:
    """Puts the present job of SLURM into the queue again."""
    job = slurm.job()
    assert job is not None
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True, timeout=60)
        rank_zero_info(f"job {job} is put into the queue again")
    except (OSError, subprocess.SubprocessError) as problem:
        rank_zero_warn(f"job {job} could not be put into the queue again: {problem}")


def resumes_exactly(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a checkpoint that is written after this batch continues as the run itself does."""
    stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0  # checkpoints contain no gradients
    return stepped and not _evaluates_next(trainer, batch_idx)


def _evaluates_next(trainer: Trainer, batch_idx: int) -> bool:
    """Whether validation or the end of the epoch may follow this batch; Lightning would skip it on resumption."""
    seen = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return trainer.is_last_batch or (bool(trainer.val_check_batch) and (seen + 1) % trainer.val_check_batch == 0)
