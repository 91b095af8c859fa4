"""The command line as one configuration: the checkpoint's specs, then recipes, then options, each over the last."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import yaml
from yaml.constructor import ConstructorError

from odeflow.config import recipes, slurm
from odeflow.config.checkpoints import KEYWORDS, first_whole, found
from odeflow.errors import CheckpointError, OdeflowError, RecipeError
from odeflow.plugin.registry import unknown
from odeflow.plugin.spec import class_spec, mapping, path_of, sequence, shown

Item = TypeVar("Item")
CLASS_NAME = re.compile(r"(?!(?:true|false|null|none)$)[A-Za-z_][\w.]*$", re.IGNORECASE)
INSIDE = ("init_args", "dict_kwargs")
SECTIONS = ("model", "data", "trainer", "optimizer", "lr_scheduler", "faults", "figures", "saving")
SETTINGS = ("seed_everything", "ckpt_path", "output", "weights_only", "verbose", "return_predictions", "print_config")


@dataclass
class Request:
    """The arguments of a command, grouped. A class that is chosen comes before its options, also if typed after them.

    Attributes:
        configs: Recipe names and files after `-c`, in order.
        plugins: Plugin files, folders and modules after `--plugins`.
        ckpt_path: The checkpoint; None if not given.
        weights: The file after `--weights`, a checkpoint or exported weights; "" for the recipe's own weights; None
            without the option.
        options: All other options, as (dotted name, value). The value is None if not given.
        words: The arguments for the parser: the other options, one word each, and words that are not options.
        help: Whether help is requested.
        damaged: What is wrong with newer checkpoints than the one that was found by a keyword.
    """

    configs: list[str] = field(default_factory=list[str])
    plugins: list[str] = field(default_factory=list[str])
    ckpt_path: str | None = None
    weights: str | None = None
    options: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])
    words: list[str] = field(default_factory=list[str])
    help: bool = False
    damaged: list[str] = field(default_factory=list[str])

    @classmethod
    def of(cls, words: list[str]) -> "Request":
        """Groups the words after a command.

        Raises:
            OdeflowError: An option that needs a value has none.
        """
        request = cls()
        waiting = ["--help" if word == "--help-all" else word for word in words]
        while waiting:
            word = waiting.pop(0)
            name, equals, value = word.partition("=")
            if name in ("-c", "--config", "--plugins"):
                if not equals and (not waiting or waiting[0].startswith("-")):
                    raise OdeflowError(f"{name} needs a value")
                value = value if equals else waiting.pop(0)
                (request.plugins if name == "--plugins" else request.configs).append(value)
                continue
            if name == "--weights":
                given = bool(waiting) and not waiting[0].startswith("-") and not equals
                request.weights = value if equals else waiting.pop(0) if given else ""
                continue
            request.help |= name in ("-h", "--help") or name.endswith(".help")
            if not name.startswith("--"):
                request.words.append(word)
                continue
            if not equals and waiting and not waiting[0].startswith("--"):
                value, equals = waiting.pop(0), "="
            request.words.append(f"{name}={value}" if equals else name)
            request.options.append((name[2:], value if equals else None))
            if name == "--ckpt_path":
                if not value:
                    raise OdeflowError("--ckpt_path needs a value")
                request.ckpt_path = value
        request.words = _classes_first(request.words, lambda word: word.partition("=")[0])
        request.options = _classes_first(request.options, lambda option: option[0])
        return request

    @property
    def replaced(self) -> list[str]:
        """What is to be said of options that are given again with another value, which replaces the first."""
        values: dict[str, list[str]] = {}
        for name, value in self.options:
            if not name.endswith(recipes.APPENDS):
                values.setdefault(name, []).append(str(value))
        return [
            f"--{name} is given as {' and '.join(given)}: the last one counts. Several values are one list, as in "
            f"--{name} [{','.join(given)}]"
            for name, given in values.items()
            if len(set(given)) > 1
        ]

    def choose(self, name: str, value: object) -> None:
        """Adds an option, as if it had been typed."""
        self.words.append(f"--{name}={value}")
        self.options.append((name, str(value)))

    def drop(self, name: str) -> None:
        """Removes an option and the options nested in it."""
        inside = (f"{name}.", f"{name}=", f"{name}{recipes.APPENDS}")
        self.options = [option for option in self.options if not f"{option[0]}=".startswith(inside)]
        self.words = [word for word in self.words if not f"{word}=".startswith(tuple(f"--{each}" for each in inside))]

    def settle_nulls(self, config: dict[str, Any]) -> None:
        """Moves nulls of nested options into a configuration: the parser takes them for the text "None"."""
        for name, text in list(self.options):
            if text == "null" and name.startswith(("model.", "data.")) and name.count(".") > 1:
                container, key = _locate(config, name)
                container[key] = None
                self.drop(name)

    @property
    def label(self) -> str | None:
        """The name of the run: the first recipe's name, or its file's stem."""
        if not self.configs:
            return None
        first = self.configs[0]
        return first if first in recipes.available() else Path(first).stem

    def pretrained(self) -> Path | None:
        """The file of weights to start from; None without `--weights`.

        Raises:
            CheckpointError: The recipe has no weights, or a checkpoint is given too.
        """
        if self.weights is None:
            return None
        if self.ckpt_path is not None:
            raise CheckpointError("give --weights or --ckpt_path, not both: each says what the model's weights are")
        if self.weights:
            return Path(self.weights)
        if not self.configs:
            raise CheckpointError("which weights? Give a recipe with weights by -c NAME, or --weights FILE")
        own = recipes.weights(self.configs[0])
        if not own.is_file():
            raise CheckpointError(f"the recipe {self.configs[0]} has no weights of its own; give --weights FILE")
        return own

    def configuration(self, command: str, stored: Any) -> dict[str, Any]:
        """The merged configuration without the command-line options: the checkpoint's specs, then the recipes.

        If a command-line option names another class than the merged configuration, the old class's options are dropped.

        Args:
            command: fit, validate, test or predict.
            stored: Checkpoint path ↦ specs.

        Raises:
            RecipeError: A recipe or a key in it is unknown, or no model is given.
            CheckpointError: The checkpoint does not exist, or neither it nor a recipe specifies the model.
        """
        layers = [recipes.read(name) for name in self.configs]
        for name, layer in zip(self.configs, layers, strict=True):
            if not isinstance(layer.get("ckpt_path") or "", str):
                raise RecipeError(f"{name}: ckpt_path must be a file; got {shown(layer['ckpt_path'])}")
            self.ckpt_path = self.ckpt_path or layer.get("ckpt_path")
        if command == "fit" and self.label is not None and slurm.requeued():
            self._resume_job(layers)
        if self.ckpt_path in KEYWORDS:
            layers = self._with_found(self.ckpt_path, layers)
        config = self._beneath(command, layers, stored)
        for layer in layers:
            config = recipes.merge(config, layer)
        for key in (*config, *(name.partition(".")[0] for name, _ in self.options)):
            if key not in SECTIONS and key not in SETTINGS:
                raise RecipeError(unknown("option", str(key), (*SECTIONS, *SETTINGS)))
        config["trainer"] = {} if config.get("trainer") is None else config["trainer"]
        if mapping(config["trainer"]) is None:
            raise RecipeError(f"trainer: expected options such as max_epochs, got {shown(config['trainer'])}")
        if "model" not in config and not any(name.partition(".")[0] == "model" for name, _ in self.options):
            raise RecipeError(
                f"odeflow {command} needs a recipe or a checkpoint: give a recipe by -c NAME, or a checkpoint by "
                f"--ckpt_path FILE.  recipes: {', '.join(recipes.available())}"
            )
        for name, value in self.options:
            _change_class(config, name, value)
        return config

    def _beneath(self, command: str, layers: list[dict[str, Any]], stored: Any) -> dict[str, Any]:
        """The configuration below the recipes: the checkpoint's specs, or to resume a run, its whole configuration.

        So it is for the file of `--weights` if no recipe says what the model is.
        """
        path = self.ckpt_path
        if path is None and self.weights and not any("model" in layer for layer in layers):
            path = self.weights
        if path is None:
            return {}
        if not Path(path).is_file():
            raise CheckpointError(f"there {'are no weights' if self.ckpt_path is None else 'is no checkpoint'} {path}")
        beside = Path(path).parent.parent / "config.yaml"
        if command == "fit" and not layers and beside.is_file():
            return {key: value for key, value in recipes.read(str(beside)).items() if key != "ckpt_path"}
        try:
            return stored(path)
        except CheckpointError:
            if not any("model" in layer for layer in layers):
                raise
            return {}

    def _resume_job(self, layers: list[dict[str, Any]]) -> None:
        """In a job that SLURM has started again, resumes its run, whatever was given at first."""
        path, self.damaged = first_whole(found(self._folder(layers), "last", slurm.job()))
        if path is None:  # it had not come to a checkpoint
            return
        self.drop("ckpt_path")
        self.weights, self.ckpt_path = None, str(path)
        self.choose("ckpt_path", path)

    def _with_found(self, word: str, layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The recipes with the checkpoint keyword replaced by the newest run's checkpoint, as also in the options.

        Raises:
            CheckpointError: No run has such a checkpoint, or no recipe says in which runs to look.
        """
        if self.label is None:
            raise CheckpointError(f"--ckpt_path {word}: of which runs? Give their recipe by -c NAME, or name the file")
        folder = self._folder(layers)
        newest = found(folder, word)
        if not newest:
            raise CheckpointError(f"--ckpt_path {word}: no run in {folder} has such a checkpoint ({KEYWORDS[word]})")
        whole, self.damaged = first_whole(newest)
        if whole is None:
            raise CheckpointError(f"--ckpt_path {word}: {self.damaged[0]}; so are all that were written before")
        self.ckpt_path = path = str(whole)
        typed = {f"--ckpt_path={word}": f"--ckpt_path={path}", word: path}
        self.words = [
            typed.get(each, each) if "--ckpt_path" in (each.partition("=")[0], before) else each
            for before, each in pairwise(("", *self.words))
        ]
        self.options = [(name, path if name == "ckpt_path" else value) for name, value in self.options]
        return [{**layer, "ckpt_path": path} if layer.get("ckpt_path") == word else layer for layer in layers]

    def _folder(self, layers: list[dict[str, Any]]) -> Path:
        """The folder of the runs of these recipes."""
        config: dict[str, Any] = {}
        for layer in layers:
            config = recipes.merge(config, layer)
        trainer = mapping(self.effective(config).get("trainer")) or {}
        first = (sequence(trainer.get("logger")) or [trainer.get("logger")])[0]
        own = path_of(first).endswith("CSVLogger")  # under others the run's files are in its default folder
        logger = (mapping((class_spec(first) or {}).get("init_args")) or {}) if own or first is None else {}
        return Path(logger.get("save_dir") or "runs", logger.get("name") or self.label or "")

    def effective(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration with the command-line options applied; their values are parsed as YAML."""
        config = copy.deepcopy(config)
        for option, text in self.options:
            name = option.removesuffix(recipes.APPENDS)
            container, key = _locate(config, name)
            value = _value(option, text)
            container[key] = value if name == option else recipes.appended(name, container.get(key), value)
        return config

    def lost(self, config: dict[str, Any]) -> list[str]:
        """The recipe's checkpoint callbacks if another list of callbacks replaced all of them, else an empty list."""
        if _checkpoints(self.effective(config)):
            return []
        return [name for each in self.configs for name in _checkpoints(recipes.merge({}, recipes.read(each)))]


def _classes_first(items: list[Item], name: Callable[[Item], str]) -> list[Item]:
    """The options with the first choice of each class before the options of the class, otherwise in order.

    Args:
        items: The options.
        name: Option ↦ its dotted name.
    """
    ordered: list[Item] = []
    for item in items:
        chosen = name(item).removesuffix(".class_path")
        place = next((at for at, each in enumerate(ordered) if name(each).startswith(f"{chosen}.")), len(ordered))
        again = any(name(each).removesuffix(".class_path") == chosen for each in ordered)
        ordered.insert(len(ordered) if again else place, item)
    return ordered


def _checkpoints(config: dict[str, Any]) -> list[str]:
    """The class paths of the checkpoint callbacks in a configuration."""
    callbacks = (mapping(config.get("trainer")) or {}).get("callbacks")
    nodes = [callbacks] if sequence(callbacks) is None else sequence(callbacks) or []
    return [path_of(node) for node in nodes if path_of(node).endswith("Checkpoint")]


def _value(option: str, text: str | None) -> Any:
    """The parsed value of an option.

    Raises:
        RecipeError: The value is YAML that is not plain data, is too large, or has duplicate keys.
    """
    try:
        return None if text is None else recipes.parse(text)
    except ConstructorError as problem:
        raise RecipeError(f"--{option}: {problem.problem}") from problem
    except yaml.YAMLError:  # a plain string, or left to the parser to reject
        return text


def _locate(config: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """(mapping, key) of an option's dotted name, passing through `init_args` of the classes on the path.

    In a list, the name refers to the last class. Missing mappings are created.
    """
    parts = [part for part in name.split(".") if part not in INSIDE]
    container = config
    for part, following in pairwise(parts):
        several = sequence(container.get(part))
        present = several.pop() if several else container.get(part)
        inside: dict[str, Any] = {"class_path": present} if isinstance(present, str) else mapping(present) or {}
        container[part] = [*several, inside] if several is not None else inside
        if "class_path" in inside and following != "class_path":
            container, part = inside, "init_args"
            inside = mapping(container.get(part)) or {}
            container[part] = inside
        container = inside
    return container, parts[-1]


def _change_class(config: dict[str, Any], name: str, value: str | None) -> None:
    """Drops a class's options if an option names another class, and a list if an option replaces it."""
    container, key = _locate(copy.deepcopy(config), name.removesuffix(".class_path"))
    if sequence(container.get(key)) is not None and sequence(_value(name, value)) is not None:
        container, key = _locate(config, name)
        del container[key]
        return
    present = class_spec(container.get(key))
    if present is None or value is None or not CLASS_NAME.match(value):
        return
    if not recipes.same_class(present["class_path"], value):
        container, key = _locate(config, name.removesuffix(".class_path"))
        container[key] = {"class_path": value}
