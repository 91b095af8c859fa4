"""The loggers of a run, and the place of its files."""

import inspect
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from odeflow.cli import trust
from odeflow.config import recipes
from odeflow.config.record import RunRecord
from odeflow.config.request import Request
from odeflow.errors import SettingError
from odeflow.plugin.spec import class_spec, path_of, sequence

PACKAGES = {
    "CometLogger": ("comet-ml", ("comet_ml",)),
    "MLFlowLogger": ("mlflow", ("mlflow",)),
    "TensorBoardLogger": ("tensorboard", ("tensorboard", "tensorboardX")),
    "WandbLogger": ("wandb", ("wandb",)),
}
"""The package that each of Lightning's loggers needs, and the modules of which one must be there."""
WAIT = "30"
"""Seconds to wait for W&B when a run begins, where $WANDB_INIT_TIMEOUT does not say it."""
STORE, ARTIFACTS = "sqlite:///runs/mlflow.db", "runs/mlruns"
"""Where MLflow keeps runs and their files, where $MLFLOW_TRACKING_URI does not say it."""


@dataclass(frozen=True)
class Place:
    """Where a run's files go, and what loggers call it.

    Attributes:
        folder: The folder of all runs, or for an evaluation that of the evaluated run.
        name: The folder in it that holds version_0, version_1, …
        recipe: The label of the recipe.
        command: fit, validate, test or predict.
        evaluated: The record of the run whose checkpoint is evaluated.
    """

    folder: Path
    name: str
    recipe: str
    command: str
    evaluated: RunRecord | None = None

    def options(self, cls: type | None) -> dict[str, Any]:
        """The options of a logger by which it finds its place."""
        trained = {} if self.evaluated is None else self.evaluated.trackers
        tags = [self.recipe, self.command]
        if cls is WandbLogger:  # it puts a folder of its own into `save_dir`
            run = {"save_dir": "runs", "project": "odeflow", "name": self.recipe}
            evaluated = trained.get("WandbLogger")
            link = {"config": {"evaluated": evaluated}} if evaluated else {}
            return run | {"group": self.recipe, "job_type": self.command, "tags": tags} | link
        if cls is MLFlowLogger:
            marks = {"recipe": self.recipe, "command": self.command}
            if "MLFlowLogger" in trained:
                marks["mlflow.parentRunId"] = trained["MLFlowLogger"]["id"]
            uri = os.environ.get("MLFLOW_TRACKING_URI", STORE)
            artifacts = {"artifact_location": ARTIFACTS} if uri == STORE else {}
            named = {"experiment_name": "odeflow", "run_name": self.recipe, "tags": marks}
            return named | artifacts | {"tracking_uri": uri}
        known = {} if cls is None else inspect.signature(cls).parameters
        options = {"save_dir": str(self.folder), "name": self.name, "project": "odeflow", "tags": tags}
        return {name: value for name, value in options.items() if name in known}

    def prepare(self, trainer: Trainer) -> None:
        """Makes the first logger of a trainer one that writes metrics.csv, whose folder is that of the run.

        Loggers that number their versions agree on one, and W&B is opened, offline if it cannot be reached.
        """
        files = [each for each in trainer.loggers if isinstance(each, CSVLogger)] or [CSVLogger(self.folder, self.name)]
        trainer.loggers = [*files, *(each for each in trainer.loggers if not isinstance(each, CSVLogger))]
        for logger in trainer.loggers:
            if isinstance(logger, (CSVLogger, TensorBoardLogger)):
                _ = logger.version  # is counted now, before one of them makes a folder
            elif isinstance(logger, WandbLogger):
                _open(logger)


@rank_zero_only
def _open(logger: WandbLogger) -> None:
    """Begins a run of W&B; offline if that fails, as it does without a network or an account."""
    import wandb

    os.environ.setdefault("WANDB_INIT_TIMEOUT", WAIT)
    try:
        _ = logger.experiment
    except wandb.Error as problem:
        os.environ["WANDB_MODE"] = "offline"
        wandb.teardown()  # it has read the environment
        reason = str(problem).strip().partition("\n")[0]
        print(  # noqa: T201
            f"note: W&B cannot be used ({reason}). This run is logged offline; wandb sync uploads it later",
            file=sys.stderr,
        )
        _ = logger.experiment


def name_loggers(config: dict[str, Any], request: Request, place: Place) -> None:
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
        same = recipes.same_class(path_of(present), path_of(wanted))
        trainer["logger"] = _named(present if same else path_of(wanted), place)


def _named(logger: Any, place: Place) -> dict[str, Any]:
    """A logger that finds its place, if it has options for that.

    Raises:
        SettingError: Its package is not installed.
    """
    spec = class_spec(logger) or {"class_path": logger}
    cls = trust.named(spec["class_path"], "logger")
    package, modules = PACKAGES.get("" if cls is None else cls.__name__, ("", ()))
    if package and not any(find_spec(module) for module in modules):
        raise SettingError(f"trainer.logger: {path_of(spec)} needs {package}: pip install {package}")
    options = place.options(cls) | (spec.get("init_args") or {})
    if cls is WandbLogger:  # it writes elsewhere if the folder does not exist
        Path(options["save_dir"]).mkdir(parents=True, exist_ok=True)
    if options.get("tracking_uri") == STORE:
        Path("runs").mkdir(exist_ok=True)
    return {**spec, "init_args": options}
