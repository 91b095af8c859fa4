"""Command: LightningCLI with plugins by name, callbacks to interrupt and resume a run, and atomic checkpoints."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeUnion, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only
from torch.optim import Optimizer

from odeflow.cli import explain, trust
from odeflow.cli.loggers import Place
from odeflow.cli.prepare import LINKS
from odeflow.config import recipes
from odeflow.config.record import RunRecord
from odeflow.errors import OdeflowError, SettingError
from odeflow.plugin import registry
from odeflow.training import checkpoint
from odeflow.training.callbacks import (
    EpochMetrics,
    Faults,
    Figures,
    Interruption,
    LastCheckpoint,
    Predictions,
    Randomness,
    Resumption,
    RunRecorder,
    SolverStatistics,
    Tables,
    run_folder,
)
from odeflow.training.callbacks.trackers import log_configuration
from odeflow.training.data import DataModule
from odeflow.training.files import replacing
from odeflow.training.schedule import WarmupCosine
from odeflow.training.task import Task


class Parser(LightningArgumentParser):
    """Reports errors in a few lines, with exit status 2."""

    def error(self, message: str, *args: Any, **kwargs: Any) -> NoReturn:
        known = [action.dest for action in self._actions]
        print(f"error: {explain.shortened(message, known)}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


class RunConfig(SaveConfigCallback):
    """Saves the configuration of a run beside its checkpoints, and in each logger, once its checkpoint is restored."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, save_to_log_dir=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet: a run that is refused leaves no files."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().setup(trainer, pl_module, str(trainer.state.fn))

    on_validation_start = on_test_start = on_predict_start = on_train_start

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        with replacing(run_folder(trainer) / "config.yaml") as part:
            self.parser.save(self.config, str(part), skip_unset=False, skip_validation=True)
        config = json.loads(self.parser.dump(self.config, skip_unset=False, skip_validation=True, format="json"))
        monitors = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
        for logger in trainer.loggers:
            log_configuration(logger, config, {each.monitor: each.mode for each in monitors if each.monitor})


def _after_statistics(callback: Callback) -> bool:
    """Whether a callback comes after the statistics of a step's solves: figures, for example, solve, too."""
    return not isinstance(callback, SolverStatistics)


class Command(LightningCLI):
    """LightningCLI for a Task and a DataModule, both chosen by name.

    Args:
        words: The command and its options; without `run`, the options only.
        run: Whether to run the command. Otherwise `model`, `datamodule` and a `trainer` that writes no files are built.
        pretrained: A checkpoint or exported weights, with which the model begins.
        lost: The recipe's checkpoint callbacks that were replaced; the user is notified.
        place: Where the files of the run go.
        record: The record of the run; None if none is to be written.
    """

    def __init__(
        self,
        words: list[str],
        run: bool = True,
        pretrained: Path | None = None,
        lost: Sequence[str] = (),
        place: Place | None = None,
        record: RunRecord | None = None,
    ) -> None:
        self.words, self.command = words, words[0] if run else None
        self.pretrained, self.lost, self.place, self.record = pretrained, lost, place, record
        tables = [Tables()] if run else []
        trust.restrict()
        super().__init__(
            Task,
            DataModule,
            args=words,
            parser_class=Parser,
            parser_kwargs={"prog": "odeflow", "allow_abbrev": False},
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunConfig if run else None,
            seed_everything_default=0,
            trainer_defaults={"callbacks": [SolverStatistics(), *tables]},
            load_from_checkpoint_support=False,
            run=run,
        )

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The given command only: building the parsers of all four takes as long as a short run."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name == self.command}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """As LightningCLI, with callbacks to interrupt and resume a run and to write predictions.

        Checkpoint writes are atomic. If `enable_checkpointing` is False, the recipe's checkpoint callbacks are dropped.

        Raises:
            SettingError: The callbacks include LearningRateFinder, which does not support tasks.
        """
        options = self._get(self.config_init, "trainer")
        several: Any = options.callbacks or []
        listed = [several] if isinstance(several, Callback) else several
        if any(isinstance(each, LearningRateFinder) for each in listed):
            raise SettingError(
                "LearningRateFinder sets an attribute lr of the model, but here the learning rate is the optimizer's: "
                "compare a few by --optimizer.lr, or find one in Python: "
                "Tuner(trainer).lr_find(task, datamodule=data, update_attr=False).suggestion()"
            )
        if options.enable_checkpointing is False:
            kwargs["callbacks"] = [each for each in listed if not isinstance(each, Checkpoint)]
        trainer = super().instantiate_trainer(**kwargs)
        trainer.callbacks.sort(key=_after_statistics)  # pyright: ignore[reportAttributeAccessIssue]
        if self.place is not None and trainer.loggers and not options.fast_dev_run:
            self.place.prepare(trainer)
        typed = [word.partition("=")[0] for word in self.words if word.startswith(("--optimizer", "--lr_scheduler"))]
        trainer.callbacks.extend([Resumption(typed), Randomness(), EpochMetrics()])  # pyright: ignore
        if self.command == "predict":
            trainer.callbacks.append(Predictions(self._get(self.config_init, "output")))  # pyright: ignore
        if options.enable_checkpointing is not False and not options.fast_dev_run:
            trainer.callbacks.append(self._get(self.config_init, "saving"))  # pyright: ignore
        if self.record is not None and not options.fast_dev_run:
            trainer.callbacks.append(RunRecorder(self.record))  # pyright: ignore
        trainer.callbacks.append(Interruption())  # pyright: ignore
        for each in trainer.checkpoint_callbacks:
            if isinstance(each, ModelCheckpoint):
                each.save_last = None  # LastCheckpoint writes the same file more often
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not if the user chose another one
            trainer.strategy.checkpoint_io = checkpoint.Checkpoints()
        return trainer

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options of a run and of `predict`, and links the sizes from the data to the model."""
        if self.command is not None:
            parser.add_lightning_class_args(Faults, "faults")
            parser.add_lightning_class_args(Figures, "figures")
            parser.add_class_arguments(LastCheckpoint, "saving")  # dropped without checkpoints
        if self.command == "predict":
            help_ = "a table to write instead of predictions.pt: *.csv, *.parquet or *.npz"
            parser.add_argument("--output", type=str | None, metavar="FILE", help=help_)
        for size, source in LINKS.items():
            parser.link_arguments(f"data.{source}", f"model.init_args.{size}", apply_on="instantiate")

    @staticmethod
    def configure_optimizers(
        lightning_module: LightningModule, optimizer: Optimizer, lr_scheduler: LRSchedulerTypeUnion | None = None
    ) -> Any:
        """As LightningCLI, but sets the number of steps of a `WarmupCosine` schedule."""
        if not isinstance(lr_scheduler, WarmupCosine):
            return LightningCLI.configure_optimizers(lightning_module, optimizer, lr_scheduler)
        if lr_scheduler.total_steps is None:
            steps = lightning_module.trainer.estimated_stepping_batches
            if steps == float("inf"):
                raise SettingError("WarmupCosine needs the length of the run: give trainer.max_epochs or max_steps")
            lr_scheduler.total_steps = int(steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": lr_scheduler, "interval": "step"}}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """As LightningCLI, without its warning about explicit arguments: `--plugins` is removed from them first."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Leaves out the hyperparameters of a checkpoint, which LightningCLI would lay over the options."""

    @rank_zero_only
    def before_instantiate_classes(self) -> None:
        """Notifies the user of dropped checkpoint callbacks, once the options are known to be valid."""
        if self.lost:
            print(  # noqa: T201
                f"note: trainer.callbacks replaces the recipe's, so {', '.join(self.lost)} is dropped. "
                f"Write callbacks{recipes.APPENDS} to add to them",
                file=sys.stderr,
            )

    def _validate_within_the_run(self) -> None:
        """Lets a run that is shorter than the recipe's interval between validations end with one."""
        trainer = self._get(self.config, "trainer")
        epochs, every = trainer.get("max_epochs"), trainer.get("check_val_every_n_epoch")
        if self.subcommand == "fit" and epochs and every and 0 < epochs < every:
            trainer.check_val_every_n_epoch = epochs

    def instantiate_classes(self) -> None:
        """As LightningCLI, but reports a constructor's error without the parser's surrounding text.

        Raises:
            OdeflowError: The constructor of a plugin raised an error.
        """
        self._validate_within_the_run()
        try:
            super().instantiate_classes()
        except (MisconfigurationException, *registry.UNBUILDABLE) as problem:
            raise OdeflowError(explain.unbuilt(problem)) from problem
        if self.pretrained is not None:
            checkpoint.begin_with(self.model, self.pretrained)
