"""`odeflow fit | validate | test | predict`, on LightningCLI: recipes, plugins by name, and checkpoints as recipes."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

from odeflow import checkpoint, recipes, registry
from odeflow.callbacks import Figures, Predictions, SolverStatistics, run_folder
from odeflow.cli import explain
from odeflow.cli.request import Request
from odeflow.data import DataModule
from odeflow.errors import OdeflowError
from odeflow.plain import class_spec, mapping
from odeflow.task import Task

LINKS = ("num_classes", "channels", "dim")
"""Sizes that data announce and tasks take."""


CHATTER = (
    ".*does not have many workers.*",  # the data sets that need workers can ask for them
    ".*configure_optimizers` will be overridden.*",  # that is what the recipe's optimizer is for
    ".*callbacks used to create the checkpoint need to be provided.*",  # not to evaluate it
    ".*isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # Lightning's own affair
    ".*Couldn't infer the batch indices.*",  # data that make their own batches have none
)
"""Warnings that tell the user of a recipe nothing."""


class Parser(LightningArgumentParser):
    """Answers a mistake with a few lines and exit status 2."""

    def error(self, message: str, *args: Any, **kwargs: Any) -> NoReturn:
        known = [action.dest for action in self._actions]
        print(f"error: {explain.shortened(message, known)}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


class RunConfig(SaveConfigCallback):
    """Keeps the configuration of a run beside its checkpoints, and once in W&B, nested."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, save_to_log_dir=False)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, str(folder / "config.yaml"), skip_none=False, overwrite=True)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                text = self.parser.dump(self.config, skip_none=False, format="json")
                logger.experiment.config.update(json.loads(text), allow_val_change=True)


class Command(LightningCLI):
    """LightningCLI whose model is a Task and whose data are a DataModule, both chosen by name."""

    def __init__(self, words: list[str]) -> None:
        super().__init__(
            Task,
            DataModule,
            args=words,
            parser_class=Parser,
            parser_kwargs={"prog": "odeflow", "allow_abbrev": False},
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunConfig,
            seed_everything_default=0,
            trainer_defaults={"callbacks": [SolverStatistics(), Figures(), Predictions()]},
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Sizes go from the data to the model."""
        for size in LINKS:
            parser.link_arguments(f"data.{size}", f"model.init_args.{size}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """As LightningCLI, which would warn that words are given; they are, since plugins are taken out of them."""
        self.config = parser.parse_args(args)

    def instantiate_classes(self) -> None:
        """As LightningCLI; what a plugin's constructor refuses is passed on without the parser's sixty lines.

        Raises:
            OdeflowError: A plugin could not be made of its options.
        """
        try:
            super().instantiate_classes()
        except ValueError as problem:
            raise OdeflowError(explain.shortened(str(problem), [])) from problem


def run(command: str, words: list[str]) -> None:
    """Runs a command of Lightning's.

    Args:
        command: fit, validate, test or predict.
        words: What follows it.

    Raises:
        OdeflowError: The request cannot be understood, or the run failed in a way that odeflow foresaw.
    """
    request = Request.of(words)
    registry.discover(request.plugins)
    if request.help:
        Command([command, *request.words])
        return
    config = request.configuration(command, checkpoint.specs)
    explain.check(request.effective(config))
    _name_logger(config, request.label or command)
    _drop_linked_sizes(config)
    for message in CHATTER:
        warnings.filterwarnings("ignore", message=message)
    Command([command, "--config", json.dumps(config), *request.words])


def _name_logger(config: dict[str, Any], label: str) -> None:
    """By default runs/<recipe>/version_N with a CSV of the metrics; a W&B logger is named likewise."""
    trainer = config.setdefault("trainer", {})
    logger = trainer.get("logger")
    if logger is None or logger is True:
        trainer["logger"] = {"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "name": label}}
    elif (spec := class_spec(logger)) and recipes.same_class(spec["class_path"], "WandbLogger"):
        Path("runs").mkdir(exist_ok=True)
        spec["init_args"] = {"project": "odeflow", "name": label, "save_dir": "runs", **(spec.get("init_args") or {})}


def _drop_linked_sizes(config: dict[str, Any]) -> None:
    """What the data announce is not to be said twice; a checkpoint's spec does."""
    model = mapping(config.get("model"))
    if model is not None and "data" in config:
        for size in LINKS:
            model.get("init_args", {}).pop(size, None)
