"""RunRecorder: what a run was and what came of it, in its folder and in its checkpoints."""

import json
import math
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_info

from odeflow.config.holding import Hold
from odeflow.config.record import NAME, RunRecord
from odeflow.errors import OdeflowError
from odeflow.training.callbacks.run_folder import run_folder
from odeflow.training.files import replacing


class RunRecorder(Callback):
    """Writes `run.json` when a run begins, after each epoch and when it ends, and says where its files are.

    Checkpoints contain the record as "run".

    Args:
        record: The record as of the beginning.
    """

    def __init__(self, record: RunRecord) -> None:
        self.record, self.began = record, time.monotonic()
        self.hold: Hold | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        tracked = [logger for logger in trainer.loggers if not isinstance(logger, CSVLogger)]
        trackers = {type(logger).__name__: {"name": str(logger.name), "id": str(logger.version)} for logger in tracked}
        device = trainer.strategy.root_device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self.record = replace(self.record, device=name, processes=trainer.world_size, trackers=trackers)
        if trainer.is_global_zero and self.hold is None:
            self.hold = Hold(run_folder(trainer))
        self._write(trainer, "running")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, "running")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._write(trainer, "finished")
        self._release()
        rank_zero_info(_said(self.record, run_folder(trainer)))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        interrupted = not isinstance(exception, Exception)
        with suppress(OdeflowError):  # the disk may be full, which the exception says
            self._write(trainer, "interrupted" if interrupted else "failed")
        self._release()
        if interrupted:
            folder = run_folder(trainer)
            last = folder / "checkpoints" / "last.ckpt"
            resume = f". To resume: odeflow fit --ckpt_path {last}" if last.is_file() else ""
            rank_zero_info(f"interrupted; {_said(self.record, folder)}{resume}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = self._updated(trainer, self.record.status).plain()

    def _updated(self, trainer: Trainer, status: str) -> RunRecord:
        """The record with the present results."""
        known = trainer.callback_metrics
        metrics = {name: _finite(float(value)) for name, value in known.items() if f"{name}_epoch" not in known}
        now = replace(
            self.record,
            seconds=round(time.monotonic() - self.began, 3),
            status=status,
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            metrics={**self.record.metrics, **metrics},
        )
        for each in trainer.checkpoint_callbacks:
            if isinstance(each, ModelCheckpoint) and each.monitor and each.best_model_score is not None:
                path = Path(each.best_model_path)
                return replace(
                    now,
                    monitor=each.monitor,
                    mode=each.mode,
                    best=_finite(float(each.best_model_score)),
                    best_path=f"{path.parent.name}/{path.name}",
                )
        return now

    def _release(self) -> None:
        if self.hold is not None:
            self.hold.release()

    def _write(self, trainer: Trainer, status: str) -> None:
        """Updates the record and its file."""
        self.record = self._updated(trainer, status)
        if trainer.is_global_zero:
            with replacing(run_folder(trainer) / NAME) as part:
                part.write_text(json.dumps(self.record.plain(), indent=2))


def _finite(value: float) -> float | None:
    """The value; None, which JSON can hold, if it is not finite."""
    return value if math.isfinite(value) else None


def _said(record: RunRecord, folder: Path) -> str:
    """Where the files of a finished run are, in a line."""
    names = [record.best_path] if record.best_path else []
    names += ["checkpoints/last.ckpt"] if (folder / "checkpoints/last.ckpt").is_file() else []
    names += sorted(file.name for pattern in ("*.csv", "predictions*") for file in folder.glob(pattern))
    figures = len(list(folder.glob("figures/*")))
    names += [f"{figures} figure{'s' * (figures > 1)}"] if figures else []
    best = f", best {record.monitor} {record.best:.4g}" if record.best is not None else ""
    return f"{folder}: {', '.join(names or [NAME])}{best}; {record.seconds:.0f} s"
