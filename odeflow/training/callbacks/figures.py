"""Figures: draws the task's figures at the start, midway and at the end of training, and after a test."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.seed import isolate_rng
from matplotlib.figure import Figure

from odeflow.training.callbacks.run_folder import run_folder
from odeflow.training.files import replacing
from odeflow.training.task import Task


class Figures(Callback):
    """Writes figures to `figures/*.png`, and to W&B if it is a logger.

    In training these are `Task.figures` of the first validation batch, named `…_1_start.png`, `…_2_midway.png` and
    `…_3_end.png`. After a test they are `Task.test_figures`, named `…_test.png`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, pl_module, "1_start")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step == trainer.estimated_stepping_batches // 2:
            self._draw(trainer, pl_module, "2_midway")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, pl_module, "3_end")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, Task):
            _write(trainer, pl_module.test_figures(), "test")  # in all processes, which may have to synchronise

    @rank_zero_only
    def _draw(self, trainer: Trainer, pl_module: LightningModule, moment: str) -> None:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, Task) or data is None:
            return
        training = pl_module.training
        pl_module.eval()
        with torch.no_grad(), isolate_rng():  # figures must not affect the run
            batch = trainer.strategy.batch_to_device(next(iter(data.val_dataloader())))
            figures = pl_module.figures(batch)
        pl_module.train(training)
        _write(trainer, figures, moment)


@rank_zero_only
def _write(trainer: Trainer, figures: dict[str, Figure], moment: str) -> None:
    folder = run_folder(trainer) / "figures"
    for name, figure in figures.items():
        with replacing(folder / f"{name}_{moment}.png") as part:
            figure.savefig(part, dpi=110)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(f"figures/{name}", [str(folder / f"{name}_{moment}.png")])
