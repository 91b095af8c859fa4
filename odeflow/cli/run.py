"""`odeflow fit | validate | test | predict`: LightningCLI with recipes, plugins by name, and specs in checkpoints."""

import contextlib
import inspect
import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeUnion, SaveConfigCallback
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.optim import Optimizer

from odeflow.cli import explain
from odeflow.cli.family import end_with_parent, leave_group
from odeflow.cli.options import run_of
from odeflow.config import recipes
from odeflow.config.record import RunRecord
from odeflow.config.request import Request
from odeflow.errors import CheckpointError, OdeflowError, PluginError, SettingError
from odeflow.plugin import registry
from odeflow.plugin.plugin import import_path
from odeflow.plugin.spec import class_spec, mapping, named_spec, sequence
from odeflow.training import checkpoint, weights
from odeflow.training.callbacks import (
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
from odeflow.training.data import DataModule
from odeflow.training.files import replacing
from odeflow.training.schedule import WarmupCosine
from odeflow.training.task import Task

SIZES = ("num_classes", "num_outputs", "num_conditions", "num_covariates", "dim")
LINKS = {size: size for size in SIZES} | {"shape": "input_shape"}
"""The options of a task that are linked from the data, with the attribute of the data."""

CHATTER = (
    ".*does not have many workers.*",  # data sets that need workers have an option
    ".*configure_optimizers` will be overridden.*",  # intended: the recipe sets the optimizer
    ".*`IterableDataset` has `__len__` defined.*",  # tables are streamed without workers
    ".*callbacks used to create the checkpoint need to be provided.*",  # not for evaluation
    ".*isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # internal to Lightning
    r"\s*(``instantiate_classes`` was deprecated|By default only one JsonargparseDeprecationWarning)",  # likewise
    ".*The dirpath has changed from.*",  # a resumed run has its own folder and best checkpoint
    ".*dataloader is not resumable.*",  # Randomness resumes it
    ".*Couldn't infer the batch indices.*",  # not defined for data that make their own batches
    ".*Experiment logs directory .* exists and is not empty.*",  # the folder of the run's other files
)
"""Warnings that are irrelevant to users of recipes."""


@dataclass(frozen=True)
class Place:
    """Where a run's files go, and what loggers call it.

    Attributes:
        folder: The folder of all runs, or for an evaluation that of the evaluated run.
        name: The folder in it that holds version_0, version_1, …
        recipe: The label of the recipe.
        command: fit, validate, test or predict.
    """

    folder: Path
    name: str
    recipe: str
    command: str

    @property
    def for_wandb(self) -> dict[str, Any]:
        """Options of a `WandbLogger`, which puts a folder of the project's name into `save_dir`."""
        save_dir = self.folder if self.name == self.recipe else self.folder / self.name
        return {"save_dir": str(save_dir), "name": self.recipe, "group": self.recipe, "job_type": self.command}


class Parser(LightningArgumentParser):
    """Reports errors in a few lines, with exit status 2."""

    def error(self, message: str, *args: Any, **kwargs: Any) -> NoReturn:
        known = [action.dest for action in self._actions]
        print(f"error: {explain.shortened(message, known)}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


class RunConfig(SaveConfigCallback):
    """Saves the configuration of a run beside its checkpoints, and once in W&B, nested."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, save_to_log_dir=False)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        with replacing(run_folder(trainer) / "config.yaml") as part:
            self.parser.save(self.config, str(part), skip_unset=False)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                text = self.parser.dump(self.config, skip_unset=False, format="json")
                logger.experiment.config.update(json.loads(text), allow_val_change=True)
                for each in trainer.checkpoint_callbacks:
                    if isinstance(each, ModelCheckpoint) and each.monitor:  # the summary shows the best value
                        logger.experiment.define_metric(each.monitor, summary=each.mode)


class Command(LightningCLI):
    """LightningCLI for a Task and a DataModule, both chosen by name.

    Args:
        words: The command and its options; without `run`, the options only.
        run: Whether to run the command. Otherwise `model`, `datamodule` and a `trainer` that writes no files are built.
        pretrained: A file with the model's initial weights.
        lost: The recipe's checkpoint callbacks that were replaced; the user is notified.
        record: The record of the run; None if none is to be written.
    """

    def __init__(
        self,
        words: list[str],
        run: bool = True,
        pretrained: Path | None = None,
        lost: Sequence[str] = (),
        record: RunRecord | None = None,
    ) -> None:
        self.command, self.pretrained, self.lost, self.record = words[0] if run else None, pretrained, lost, record
        figures = [Figures(), Tables()] if run else []
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
            trainer_defaults={"callbacks": [SolverStatistics(), *figures]},
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
        trainer.callbacks.extend([Resumption(), Randomness()])  # pyright: ignore
        if self.command == "predict":
            trainer.callbacks.append(Predictions(self._get(self.config_init, "output")))  # pyright: ignore
        if options.enable_checkpointing is not False and not options.fast_dev_run:
            trainer.callbacks.append(LastCheckpoint())  # pyright: ignore
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
        """Adds the option of `predict`, and links the sizes from the data to the model."""
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

    @rank_zero_only
    def before_instantiate_classes(self) -> None:
        """Notifies the user of dropped checkpoint callbacks, once the options are known to be valid."""
        if self.lost:
            print(  # noqa: T201
                f"note: trainer.callbacks replaces the recipe's, so {', '.join(self.lost)} is dropped. "
                f"Write callbacks{recipes.APPENDS} to add to them",
                file=sys.stderr,
            )

    def instantiate_classes(self) -> None:
        """As LightningCLI, but reports a constructor's error without the parser's surrounding text.

        Raises:
            OdeflowError: The constructor of a plugin raised an error.
        """
        try:
            super().instantiate_classes()
        except (MisconfigurationException, *registry.UNBUILDABLE) as problem:
            raise OdeflowError(explain.unbuilt(problem)) from problem
        if self.pretrained is not None:
            weights.read_into(self.model, self.pretrained)
            self.model.units = weights.read_units(self.pretrained)


def run(command: str, words: list[str]) -> None:
    """Runs a Lightning command.

    Args:
        command: fit, validate, test or predict.
        words: The arguments after the command.

    Raises:
        OdeflowError: The request is invalid, or the run failed for a known reason.
    """
    end_with_parent()
    request = Request.of(words)
    registry.discover(request.plugins)
    if request.help:
        explain.check_help(request.options)
        Command([command, *request.words])
        return
    record = RunRecord.begin(command, request)
    config = prepared(command, request)
    trained = None if request.ckpt_path is None else run_of(Path(request.ckpt_path))
    stored = None if trained is None else RunRecord.read(trained)
    label = request.label or (command if stored is None else stored.recipe)
    if command != "fit" and trained is not None and os.access(trained, os.W_OK):
        place = Place(trained, command, label, command)
    else:
        place = Place(Path("runs"), label, label, command)
    _name_loggers(config, request, place)
    try:
        Command(
            [command, "--config", json.dumps(config), *request.words],
            pretrained=request.pretrained(),
            lost=request.lost(config) if command == "fit" else (),
            record=replace(record, recipe=label, ckpt_path=request.ckpt_path),
        )
    except OdeflowError:
        raise
    except (MisconfigurationException, *registry.UNBUILDABLE) as problem:
        if request.ckpt_path is not None and "loading state_dict" in str(problem):
            raise weights.misfit(request.ckpt_path, problem) from problem
        if request.ckpt_path is not None and explain.restoring(problem):
            raise CheckpointError(f"{request.ckpt_path} cannot be used: {registry.cause(problem)}") from problem
        reason = explain.failed(problem)
        if reason is None:
            raise
        raise SettingError(reason) from problem
    leave_group()


def prepared(command: str, request: Request) -> dict[str, Any]:
    """The configuration of a request for the parser: without the command-line options, but checked with them.

    Args:
        command: The command's name.
        request: The arguments after the command.

    Raises:
        OdeflowError: The request is invalid.
    """
    asked = request.ckpt_path
    config = request.configuration(command, checkpoint.specs)
    request.settle_nulls(config)
    if request.ckpt_path != asked:
        print(f"checkpoint: {request.ckpt_path}", file=sys.stderr)  # noqa: T201
    _follow_moved(config.get("model"))
    _follow_moved(config.get("data"))
    _size_dynamics(request, request.effective(config))
    explain.check(request.effective(config))
    if request.ckpt_path is not None:
        checkpoint.state(checkpoint.read(request.ckpt_path), request.ckpt_path)
    _drop_linked_sizes(config)
    for message in CHATTER:
        warnings.filterwarnings("ignore", message=message)
    return config


def _name_loggers(config: dict[str, Any], request: Request, place: Place) -> None:
    """Sets the default logger, CSVLogger in <folder>/<name>/version_N. Other loggers get the same names."""
    trainer = config["trainer"]
    trainer["default_root_dir"] = trainer.get("default_root_dir") or str(place.folder / place.name)  # without a logger
    unsaid = trainer.get("logger") is None or trainer["logger"] is True
    present = "CSVLogger" if unsaid else trainer["logger"]
    wanted = request.effective({"trainer": {**trainer, "logger": present}})["trainer"].get("logger")
    several = sequence(wanted)
    if several is not None:
        request.drop("trainer.logger")  # the parser would replace the whole list
        trainer["logger"] = [_named(each, place) for each in several]
    elif isinstance(wanted, str) or class_spec(wanted):
        same = recipes.same_class(explain.path_of(present), explain.path_of(wanted))
        trainer["logger"] = _named(present if same else explain.path_of(wanted), place)


def _named(logger: Any, place: Place) -> dict[str, Any]:
    """A logger that writes to <folder>/<name>, if it has options for that."""
    spec = class_spec(logger) or {"class_path": logger}
    cls = explain.lightning_class(spec["class_path"], Logger)
    known = {} if cls is None else inspect.signature(cls).parameters
    options = {"save_dir": str(place.folder), "name": place.name, "project": "odeflow"}
    options = {name: value for name, value in options.items() if name in known}
    options |= (place.for_wandb if cls is WandbLogger else {}) | (spec.get("init_args") or {})
    if cls is WandbLogger:  # it writes elsewhere if the folder does not exist
        Path(options["save_dir"]).mkdir(parents=True, exist_ok=True)
    return {**spec, "init_args": options}


def _follow_moved(node: Any) -> None:
    """Updates the stored class paths of plugins that have moved since."""
    spec = class_spec(node)
    path = explain.path_of(spec)
    if spec is not None and "." in path:
        with contextlib.suppress(PluginError):  # a missing plugin is reported later, if it is still needed
            spec["class_path"] = import_path(registry.class_of(path))
    for inner in (mapping(node) or {}).values():
        _follow_moved(inner)
    for inner in sequence(node) or ():
        _follow_moved(inner)


def _size_dynamics(request: Request, config: dict[str, Any]) -> None:
    """Sets the `dim` of the dynamics, if not given, from the data, for tasks whose flow carries the data."""
    model, data = named_spec(config.get("model")), named_spec(config.get("data"))
    options = mapping((model or {}).get("init_args")) or {}
    dynamics = named_spec(options.get("dynamics"))
    if model is None or data is None or dynamics is None or "dim" in (mapping(dynamics.get("init_args")) or {}):
        return
    with contextlib.suppress(PluginError):  # an unknown plugin is explained later
        task, field = registry.class_of(explain.path_of(model)), explain.path_of(dynamics)
        field = registry.class_of(field) if "." in field else registry.look_up("dynamics", field)
        if not issubclass(task, Task) or not task.carries_data or "dim" not in inspect.signature(field).parameters:
            return
        built = registry.build(data)
        dim = getattr(built, "dim", None)
        if isinstance(dim, int) and options.get("shape") is None:
            flow = mapping(options.get("flow")) or {}
            beside = sum(getattr(built, size, 0) for size in ("num_conditions", "num_covariates"))
            beside += int(flow.get("augment") or 0)
            request.choose("model.dynamics.dim", dim + beside)


def _drop_linked_sizes(config: dict[str, Any]) -> None:
    """Removes the sizes linked from the data, which a checkpoint's model spec contains too."""
    model = mapping(config.get("model"))
    if model is not None and "data" in config:
        for size in LINKS:
            (mapping(model.get("init_args")) or {}).pop(size, None)
