"""The loggers of a run, and the place of its files."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from odeflow.cli import configuration
from odeflow.config import recipes
from odeflow.config.request import Request
from odeflow.plugin.spec import class_spec, path_of, sequence


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
    """A logger that writes to <folder>/<name>, if it has options for that."""
    spec = class_spec(logger) or {"class_path": logger}
    cls = configuration.lightning_class(spec["class_path"], Logger)
    known = {} if cls is None else inspect.signature(cls).parameters
    options = {"save_dir": str(place.folder), "name": place.name, "project": "odeflow"}
    options = {name: value for name, value in options.items() if name in known}
    options |= (place.for_wandb if cls is WandbLogger else {}) | (spec.get("init_args") or {})
    if cls is WandbLogger:  # it writes elsewhere if the folder does not exist
        Path(options["save_dir"]).mkdir(parents=True, exist_ok=True)
    return {**spec, "init_args": options}
