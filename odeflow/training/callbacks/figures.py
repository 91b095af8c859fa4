"""Figures: draws the task's figures at the start, midway and at the end of training, and after a test."""

from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.style
import torch
from cycler import cycler
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from matplotlib.figure import Figure

from odeflow.engine.output.solution import SolveError
from odeflow.errors import SettingError
from odeflow.training.callbacks.run_folder import run_folder
from odeflow.training.callbacks.trackers import log_figure
from odeflow.training.files import replacing
from odeflow.training.task import Task

PROGRAMS = ("animation.", "backend", "pgf.", "text.latex", "text.usetex", "webagg.")
"""Beginnings of the options of Matplotlib that start programs."""
STYLE: Any = {
    "axes.prop_cycle": cycler(color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text that remains text
    "savefig.dpi": 150,
    "svg.fonttype": "none",
}
"""Options of Matplotlib for all figures; the colours of Okabe & Ito (2008) can be told apart by all readers."""


class Figures(Callback):
    """Writes figures to the folder `figures`, and to loggers that take figures.

    In training these are `Task.figures` of the first validation batch, named `…_1_start`, `…_2_midway` and `…_3_end`.
    After a test they are `Task.test_figures`, named `…_test`.

    Args:
        format: The files' format: "png" with 150 dots per inch, or "pdf" or "svg" for print.
        style: A style of Matplotlib by its name, as "dark_background", or a file *.mplstyle, above that of odeflow.

    Raises:
        SettingError: There is no such style, or it is not valid.
    """

    def __init__(self, format: Literal["png", "pdf", "svg"] = "png", style: str | None = None) -> None:  # noqa: A002
        self.format, self.styles = format, [STYLE, *([] if style is None else [_style(style)])]

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
            with matplotlib.style.context(self.styles):
                self._write(trainer, pl_module.test_figures(), "test")  # in all processes, which may synchronise

    @rank_zero_only
    def _draw(self, trainer: Trainer, pl_module: LightningModule, moment: str) -> None:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, Task) or data is None:
            return
        training = pl_module.training
        pl_module.eval()
        with matplotlib.style.context(self.styles):
            try:
                with torch.no_grad(), isolate_rng():  # figures must not affect the run
                    batch = trainer.strategy.batch_to_device(next(iter(data.val_dataloader())))
                    figures = pl_module.figures(batch)
            except SolveError as error:
                rank_zero_warn(f"the figures {moment} are missing, as a solve failed: {error}")
                return
            finally:
                pl_module.train(training)
            self._write(trainer, figures, moment)

    @rank_zero_only
    def _write(self, trainer: Trainer, figures: dict[str, Figure], moment: str) -> None:
        folder = run_folder(trainer) / "figures"
        for name, figure in figures.items():
            file = folder / f"{name}_{moment}.{self.format}"
            with replacing(file) as part:
                figure.savefig(part, format=self.format)
            for logger in trainer.loggers:
                log_figure(logger, name, figure, file, trainer.global_step)


def _style(style: str) -> Any:
    """The name of a style of Matplotlib, or the options in a file.

    Matplotlib itself takes `package.name`, which imports the package, and addresses on the network, too.

    Raises:
        SettingError: There is no such style, or it names programs.
    """
    if style in matplotlib.style.library:
        return style
    try:
        if not Path(style).is_file():
            raise FileNotFoundError(style)
        options = dict(mpl.rc_params_from_file(Path(style), use_default_template=False))
    except (OSError, ValueError) as problem:
        known = ", ".join(name for name in matplotlib.style.available if not name.startswith("_"))
        raise SettingError(
            f"figures.style: {style} is no style of Matplotlib and no file; those are {known}"
        ) from problem
    if programs := [name for name in options if name.startswith(PROGRAMS)]:
        raise SettingError(f"figures.style: {style} sets {', '.join(programs)}; a style chooses no programs")
    return options
