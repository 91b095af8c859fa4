"""What the user asks for, as one configuration: recipes merged, a checkpoint beneath them, the typed options on top."""

import copy
import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from odeflow import recipes
from odeflow.errors import CheckpointError, OdeflowError, RecipeError
from odeflow.plain import class_spec, mapping

CLASS_NAME = re.compile(r"(?!(?:true|false|null|none)$)[A-Za-z_][\w.]*$", re.IGNORECASE)
KEYWORDS = ("best", "last", "hpc", "registry")  # checkpoints that Lightning finds by itself
INSIDE = ("init_args", "dict_kwargs")


@dataclass
class Request:
    """The words of a command, sorted.

    Attributes:
        configs: Recipe names and files after `-c`, in order.
        plugins: Plugin files, folders and modules after `--plugins`.
        ckpt_path: The checkpoint, if one was named.
        options: All other options, as (dotted name, value, or None where no value was given).
        words: The words of the other options and of the checkpoint, for the parser.
        help: Whether help is asked for.
    """

    configs: list[str] = field(default_factory=list[str])
    plugins: list[str] = field(default_factory=list[str])
    ckpt_path: str | None = None
    options: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])
    words: list[str] = field(default_factory=list[str])
    help: bool = False

    @classmethod
    def of(cls, words: list[str]) -> "Request":
        """Sorts the words after a command.

        Raises:
            OdeflowError: An option that needs a value has none.
        """
        request = cls()
        waiting = list(words)
        while waiting:
            word = waiting.pop(0)
            name, equals, value = word.partition("=")
            if name in ("-c", "--config", "--plugins"):
                if not equals and not waiting:
                    raise OdeflowError(f"{name} needs a value")
                value = value if equals else waiting.pop(0)
                (request.plugins if name == "--plugins" else request.configs).append(value)
                continue
            request.words.append(word)
            request.help |= name in ("-h", "--help") or name.endswith(".help")
            if not name.startswith("--"):
                continue
            if not equals and waiting and not waiting[0].startswith("--"):
                value = waiting.pop(0)
                request.words.append(value)
                equals = "="
            request.options.append((name[2:], value if equals else None))
            if name == "--ckpt_path":
                request.ckpt_path = value
        return request

    @property
    def label(self) -> str | None:
        """What the run is called: the first recipe's name, or its file's stem."""
        if not self.configs:
            return None
        first = self.configs[0]
        return first if first in recipes.available() else Path(first).stem

    def configuration(self, command: str, stored: Any) -> dict[str, Any]:
        """Everything but the typed options, merged: the checkpoint's specs, then the recipes.

        Where a typed option names another class than the merged configuration, the old class's options are dropped.

        Args:
            command: fit, validate, test or predict.
            stored: Gives the specs in a checkpoint, by its path.

        Raises:
            RecipeError: A recipe is unknown, or nothing says what to run.
            CheckpointError: The checkpoint does not exist.
        """
        config: dict[str, Any] = {}
        path = self.ckpt_path
        if path is not None and path not in KEYWORDS:
            if not Path(path).is_file():
                raise CheckpointError(f"there is no checkpoint {path}")
            beside = Path(path).parent.parent / "config.yaml"
            resumed = command == "fit" and not self.configs and beside.is_file()
            config = recipes.read(str(beside)) if resumed else stored(path)
            config.pop("ckpt_path", None)
        for name in self.configs:
            config = recipes.merge(config, recipes.read(name))
        if "model" not in config and not any(name.partition(".")[0] == "model" for name, _ in self.options):
            raise RecipeError(
                f"odeflow {command} needs to know what to run: give a recipe by -c NAME, or a checkpoint by "
                f"--ckpt_path FILE.  recipes: {', '.join(recipes.available())}"
            )
        for name, value in self.options:
            _change_class(config, name, value)
        return config

    def effective(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration with the typed options in it, their values read as YAML."""
        config = copy.deepcopy(config)
        for name, value in self.options:
            container, key = _locate(config, name)
            container[key] = yaml.safe_load(value) if value is not None else None
        return config


def _locate(config: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """(the mapping, its key) that an option's dotted name means, by way of `init_args` where a class is on the way.

    What is missing on the way is made.
    """
    parts = [part for part in name.split(".") if part not in INSIDE]
    container = config
    for part, following in pairwise(parts):
        present = container.get(part)
        inside: dict[str, Any] = {"class_path": present} if isinstance(present, str) else mapping(present) or {}
        container[part] = inside
        if "class_path" in inside and following != "class_path":
            container, part = inside, "init_args"
            inside = mapping(container.get(part)) or {}
            container[part] = inside
        container = inside
    return container, parts[-1]


def _change_class(config: dict[str, Any], name: str, value: str | None) -> None:
    """Drops a class's options where the user types another class."""
    container, key = _locate(copy.deepcopy(config), name.removesuffix(".class_path"))
    present = class_spec(container.get(key))
    if present is None or value is None or not CLASS_NAME.match(value):
        return
    if not recipes.same_class(present["class_path"], value):
        container, key = _locate(config, name.removesuffix(".class_path"))
        container[key] = {"class_path": value}
