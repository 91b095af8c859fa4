"""Checks of a configuration before it is parsed: plugins, options and numbers, with the nearest names."""

import inspect
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer

from odeflow.cli import trust
from odeflow.errors import PluginError, SettingError
from odeflow.plugin import registry
from odeflow.plugin.description import hints, parts
from odeflow.plugin.plugin import OptionGroup, Plugin, groups, import_path
from odeflow.plugin.spec import class_spec, mapping, sequence, shown

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
INSIDE = ("init_args", "dict_kwargs")
STRUCTURE = {"class_path", *INSIDE}
CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
TRAINER = {
    "logger": "logger",
    "callbacks": "callback",
    "strategy": "strategy",
    "accelerator": "accelerator",
    "profiler": "profiler",
    "plugins": "plugin of the trainer",
}
"""The options of the trainer that take classes, with the contract of these."""
FOREIGN = ("torch.optim.", "lightning.pytorch.")
"""Modules of most classes that are available without being plugins."""
NAMES = ("strategy", "accelerator", "profiler", "plugins")
"""Those that take names of Lightning's own, too, as "ddp"."""
LARGEST_SEED = 2**32 - 1
LARGEST_INTEGER = 2**63 - 1
LARGEST_NUMBER = torch.finfo(torch.float32).max


def check(config: Mapping[str, Any]) -> None:
    """Checks the plugins in a configuration and the names of their options, recursively.

    Args:
        config: Nested, with `model` and `data` as class specs or names.

    Raises:
        PluginError: A plugin or an option is unknown. The message gives its location, the closest match and all names.
        SettingError: A number is out of the range of float32 or int64, the seed or learning rate is invalid, or a
            checkpoint is to be unpickled.
    """
    for key, value in config.items():
        _check_numbers(key, value)
    seed = config.get("seed_everything")
    if isinstance(seed, int) and not 0 <= seed <= LARGEST_SEED:
        raise SettingError(f"seed_everything: expected a number from 0 to {LARGEST_SEED}, got {seed}")
    if config.get("weights_only") is False:
        raise SettingError("weights_only: a checkpoint is read without executing code from it, always; leave it out")
    trainer = mapping(config.get("trainer")) or {}
    registry.check_options(Trainer, trainer, "trainer")
    for option, what in TRAINER.items():
        several = sequence(trainer.get(option))
        for number, node in enumerate([trainer.get(option)] if several is None else several):
            if class_spec(node) or (option not in NAMES and (several is not None or isinstance(node, str))):
                place = f"trainer.{option}" if several is None else f"trainer.{option}[{number}]"
                _check_class(place, node, what)
    for key, kind in (("data", "data"), ("model", "task")):
        if config.get(key) is not None:
            _check_plugin(key, config[key], kind)
    for key in ("optimizer", "lr_scheduler"):
        if config.get(key) is not None:
            _check_class(key, config[key], key)
    rate = (mapping((class_spec(config.get("optimizer")) or {}).get("init_args")) or {}).get("lr", 1)
    if isinstance(rate, (int, float)) and not rate > 0:
        raise SettingError(f"optimizer: lr must be positive; got {rate}: the model would not learn")


def _check_numbers(place: str, value: Any) -> None:
    """Rejects numbers outside the range of float32 or of 64-bit integers, at any depth."""
    for key, item in (mapping(value) or {}).items():
        _check_numbers(place if key in STRUCTURE else f"{place}.{key}", item)
    for item in sequence(value) or ():
        _check_numbers(place, item)
    if isinstance(value, (int, float)) and not abs(value) <= LARGEST_NUMBER:
        raise SettingError(f"{place}: expected a number of magnitude {LARGEST_NUMBER:.1e} at most, got {shown(value)}")
    if isinstance(value, int) and not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
        raise SettingError(f"{place}: expected a 64-bit integer, got {shown(value)}")


def _spec(place: str, node: Any, what: str, choices: Iterable[str]) -> dict[str, Any]:
    """The complete class spec of a node. The form of its class path and options is checked.

    Raises:
        PluginError: The node is not a class spec.
    """
    spec: dict[str, Any] | None = {"class_path": node} if isinstance(node, str) else mapping(node)
    if spec is None:
        article = "an" if what[0] in "aeiou" else "a"
        raise PluginError(f"{place}: expected {article} {what} by name, got {shown(node)}")
    if spec.get("class_path") is None:
        raise PluginError(f"{place}: which {what}? Give class_path: one of {', '.join(choices)}")
    path = spec["class_path"]
    if not isinstance(path, str) or not CLASS_PATH.fullmatch(path):
        raise PluginError(f"{place}: class_path must be a class's name; got {shown(path)}")
    name = path.rpartition(".")[2]
    stray = [key for key in spec if key not in STRUCTURE]
    if stray:
        raise PluginError(
            f"{place}: the options of {name} go under init_args: write "
            f"{{class_path: {name}, init_args: {{{', '.join(f'{key}: …' for key in stray)}}}}}"
        )
    found: dict[str, Any] = {"class_path": path}
    for key in INSIDE:
        options = mapping(spec[key]) if spec.get(key) else {}
        if options is None:
            raise PluginError(f"{place}: {key} must name the options of {name}; got {shown(spec[key])}")
        found[key] = options
    return found


def _check_plugin(place: str, node: Any, kind: str) -> None:
    spec = _spec(place, node, f"{kind} plugin", registry.plugins(kind))
    cls, options = _find(place, spec["class_path"], kind), spec["init_args"]
    registry.check_options(cls, options, place)
    _check_stray(place, cls, spec["dict_kwargs"])
    if "." in place:  # the data supply the missing options of a task
        _check_complete(cls, options, place)
    for option, group in groups(cls).items():
        if option in options:
            _check_group(f"{place}.{option}", options[option], group)
    _check_nested(place, cls, options)


def _check_group(place: str, node: Any, group: type[OptionGroup]) -> None:
    """Checks an option group of a plugin."""
    options = mapping(node)
    if options is None:
        raise PluginError(f"{place}: expected options of its own, {', '.join(vars(group()))}; got {shown(node)}")
    registry.check_options(group, options, place)
    _check_nested(place, group, options)


def _check_nested(place: str, cls: type, options: Mapping[str, Any]) -> None:
    """Checks the plugins nested in the options of a plugin or of a group."""
    for option, nested, several in _plugin_options(cls):
        given = options.get(option)
        inner = sequence(given) if several else None
        for number, each in enumerate(inner or []):
            _check_plugin(f"{place}.{option}[{number}]", each, nested)
        if inner is None and given is not None:
            _check_plugin(f"{place}.{option}", given, nested)


def _check_stray(place: str, cls: type, options: Mapping[str, Any]) -> None:
    """Checks that the constructor accepts `dict_kwargs`, which the parser does not check.

    Raises:
        PluginError: The constructor does not accept them; the parser would silently drop them.
    """
    taken = inspect.signature(cls).parameters.values()
    if options and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
        raise PluginError(f"{place}: {cls.__name__} takes no dict_kwargs; write {', '.join(options)} under init_args")


def _check_complete(cls: type[Plugin], options: Mapping[str, Any], place: str) -> None:
    """Checks that all required options are given.

    Raises:
        PluginError: A required option is missing.
    """
    own = list(inspect.signature(cls.__init__).parameters.values())[1:]
    needed = [option.name for option in own if option.default is option.empty and option.kind not in VARIADIC]
    lacking = [option for option in needed if option not in options]
    if lacking:
        flag = re.sub(r"\[\d+\]$", "", place)  # without an index the parser refers to the last item
        raise PluginError(f"{place}: {cls.__name__} needs {', '.join(lacking)}: give --{flag}.{lacking[0]}")


def _check_class(place: str, node: Any, what: str) -> None:
    """Checks a class that is not a plugin, such as an optimizer.

    Raises:
        PluginError: Nothing that is imported has this name, or it is not of this contract, or lacks an option.
    """
    known = sorted(trust.foreign(what))
    spec = _spec(place, node, what, known)
    path: str = spec["class_path"]
    cls = trust.named(path, what)
    if cls is None and path.rpartition(".")[2] not in known and (path.startswith(FOREIGN) or "." not in path):
        raise PluginError(f"{place}: {registry.unknown(what, path.rpartition('.')[2], known)}")
    if cls is None:
        raise PluginError(
            f"{place}: {path} is not imported: it is neither of torch nor of Lightning, nor loaded. {trust.ADVICE}"
        )
    registry.check_options(cls, spec["init_args"], place, skip=1 + (what in trust.FIRST))
    _check_stray(place, cls, spec["dict_kwargs"])


def check_help(options: Iterable[tuple[str, str | None]]) -> None:
    """Checks that the subject of `--model.help NAME` and similar options exists.

    Raises:
        PluginError: The plugin is unknown, or its enclosing option is missing. The message says where to look.
    """
    given = list(options)
    chosen = {option.removesuffix(".class_path") for option, name in given if name}
    for option, name in given:
        place, _, asked = option.rpartition(".")
        if asked != "help" or not name:
            continue
        if place in ("model", "data"):
            _find(f"--{option}", name, {"model": "task", "data": "data"}[place])
        elif place.startswith(("model.", "data.")) and place.partition(".")[0] not in chosen:
            raise PluginError(
                f"--{option}: give the enclosing option first; odeflow plugins show {name} lists the options"
            )


def _find(place: str, path: str, kind: str) -> type[Plugin]:
    known = registry.plugins(kind)
    for name, cls in known.items():
        if path in (name, import_path(cls)):
            return cls
    name = path.rpartition(".")[2]
    if "." in path and name in known:  # re-exported or moved
        return known[name]
    if "." in path and registry.unfit(kind, name) is None:
        raise PluginError(f"{place}: {registry.missing(path)}")
    raise PluginError(f"{place}: {registry.absent(kind, name)}")


def _plugin_options(cls: type) -> Iterator[tuple[str, str, bool]]:
    """The options of a plugin that take plugins: (name, kind of plugin, whether in a list)."""
    contracts = {registry.contract(kind): kind for kind in registry.kinds()}
    for option, annotation in hints(cls).items():
        within = list(parts(annotation))
        several = any(typing.get_origin(part) in (list, Sequence) for part in within)
        yield from ((option, contracts[part], several) for part in within if part in contracts)
