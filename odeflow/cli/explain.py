"""Says what is wrong with a configuration in a line, before the parser says it in sixty."""

import inspect
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from odeflow import registry, schedule
from odeflow.errors import PluginError
from odeflow.plain import class_spec, mapping, sequence
from odeflow.plugin import Plugin, import_path

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
STRUCTURE = {"class_path", "init_args", "dict_kwargs"}
FORMAL = "Does not validate|Expected a path|Expected a dot import path"
"""How the parser's reasons begin that say nothing where it has others."""


def check(config: Mapping[str, Any]) -> None:
    """Checks the plugins that a configuration names, and their options' names, all the way down.

    Args:
        config: Nested, with `model` and `data` as class specs or names.

    Raises:
        PluginError: A plugin or an option does not exist; the message names the place, the nearest, and all.
    """
    trainer = mapping(config.get("trainer")) or {}
    registry.check_options(Trainer, [option.removesuffix("+") for option in trainer], "trainer")
    for option, contract in (("logger", Logger), ("callbacks", Callback)):
        for node in sequence(trainer.get(option)) or [trainer.get(option)]:
            if isinstance(node, str) or class_spec(node):
                _check_class(f"trainer.{option}", node, contract)
    for key, kind in (("model", "task"), ("data", "data")):
        if config.get(key) is not None:
            _check_plugin(key, config[key], kind)
    for key, contract in (("optimizer", Optimizer), ("lr_scheduler", LRScheduler)):
        if config.get(key) is not None:
            _check_class(key, config[key], contract)


def _check_plugin(place: str, node: Any, kind: str) -> None:
    spec: dict[str, Any] | None = {"class_path": node} if isinstance(node, str) else mapping(node)
    if spec is None:
        raise PluginError(f"{place}: a {kind} plugin is wanted, by name; got {node!r}")
    if "class_path" not in spec:
        raise PluginError(f"{place}: which {kind}? Give class_path: one of {', '.join(registry.plugins(kind))}")
    path = str(spec["class_path"])
    name = path.rpartition(".")[2]
    stray = [key for key in spec if key not in STRUCTURE]
    if stray:
        raise PluginError(
            f"{place}: the options of {name} go under init_args: write "
            f"{{class_path: {name}, init_args: {{{', '.join(f'{key}: …' for key in stray)}}}}}"
        )
    cls = _find(place, path, kind)
    options = mapping(spec["init_args"]) if spec.get("init_args") else {}
    if options is None:
        raise PluginError(f"{place}: init_args must name the options of {name}; got {spec['init_args']!r}")
    registry.check_options(cls, options, place)
    if "." in place:  # a task gets what it lacks from the data
        _check_complete(cls, options, place)
    for option, nested, several in _plugin_options(cls):
        given = options.get(option)
        inner = sequence(given) if several else None
        for number, each in enumerate(inner or []):
            _check_plugin(f"{place}.{option}[{number}]", each, nested)
        if inner is None and given is not None:
            _check_plugin(f"{place}.{option}", given, nested)


def _check_complete(cls: type[Plugin], options: Mapping[str, Any], place: str) -> None:
    """Checks that the options without a default are given.

    Raises:
        PluginError: One is not.
    """
    own = list(inspect.signature(cls.__init__).parameters.values())[1:]
    needed = [option.name for option in own if option.default is option.empty and option.kind not in VARIADIC]
    lacking = [option for option in needed if option not in options]
    if lacking:
        flag = re.sub(r"\[\d+\]$", "", place)  # without a number the parser means the last of a list
        raise PluginError(f"{place}: {cls.__name__} needs {', '.join(lacking)}: give --{flag}.{lacking[0]}")


def _check_class(place: str, node: Any, contract: type) -> None:
    """Checks a class that is no plugin of ours, such as an optimizer; one with a path elsewhere is the parser's."""
    spec: dict[str, Any] = {"class_path": node} if isinstance(node, str) else mapping(node) or {}
    path = str(spec.get("class_path", ""))
    if not path or ("." in path and not path.startswith(("torch.optim.", schedule.__name__))):
        return
    known = {cls.__name__: cls for cls in _subclasses(contract) if not cls.__name__.startswith("_")}
    name = path.rpartition(".")[2]
    if name not in known:
        what = place.rpartition(".")[2].removesuffix("s")
        raise PluginError(f"{place}: {registry.unknown(what, name, sorted(known))}")
    given = contract in (Optimizer, LRScheduler)  # their first argument is not for the user to give
    registry.check_options(known[name], mapping(spec.get("init_args")) or {}, place, skip=1 + given)


def _subclasses(contract: type) -> Iterator[type]:
    for cls in contract.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def check_help(options: Iterable[tuple[str, str | None]]) -> None:
    """Checks that what `--model.help NAME` and its like ask about is there to be told.

    Raises:
        PluginError: It is not; the message says where to look.
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
            raise PluginError(f"--{option}: inside which? odeflow plugins show {name} tells the options without asking")


def _find(place: str, path: str, kind: str) -> type[Plugin]:
    known = registry.plugins(kind)
    for name, cls in known.items():
        if path in (name, import_path(cls)):
            return cls
    name = path.rpartition(".")[2]
    if "." in path and name in known:  # re-exported, or moved since
        return known[name]
    raise PluginError(f"{place}: {registry.missing(path) if '.' in path else registry.unknown(kind, path, known)}")


def _plugin_options(cls: type[Plugin]) -> Iterator[tuple[str, str, bool]]:
    """The options of a plugin that take plugins: (name, kind of plugin, whether in a list)."""
    contracts = {registry.contract(kind): kind for kind in registry.CONTRACTS}
    for option, annotation in typing.get_type_hints(cls.__init__).items():
        parts = list(_parts(annotation))
        several = any(typing.get_origin(part) is list for part in parts)
        yield from ((option, contracts[part], several) for part in parts if part in contracts)


def _parts(annotation: Any) -> Iterator[Any]:
    """A type and what it is made of: `list[Solver] | None` holds `Solver`."""
    yield annotation
    for part in typing.get_args(annotation):
        yield from _parts(part)


def shortened(message: str, known: Sequence[str]) -> str:
    """The parser's own message in a few lines; one that is not understood is passed on as it is.

    Args:
        message: What the parser says.
        known: The option names of the command, such as `trainer.max_epochs`.
    """
    message = re.sub(r"<class '([\w.]+)'>", r"\1", message)
    unrecognized = re.search(r"[Uu]nrecognized arguments: (.+)", message)
    if unrecognized:
        word = unrecognized[1].split()[0]
        option = word.lstrip("-").partition("=")[0]
        near = get_close_matches(option, known, n=1)
        hint = f" Did you mean --{near[0]}?" if near else ""
        return f"there is no option {word.partition('=')[0]}.{hint}"
    reasons = [reason for reason in re.findall(r"^\s*- (.+)$", message, re.MULTILINE) if "NoneType" not in reason]
    reasons = [reason for reason in reasons if not re.match(FORMAL, reason)] or reasons
    if reasons:
        key, given = re.search(r'key "([^"]+)"', message), re.search(r"Given value: (.{1,60})$", message, re.MULTILINE)
        place = f"{key[1]}: " if key else ""
        return place + "; ".join(dict.fromkeys(reasons)) + (f", got {given[1]}" if given else "")
    message = re.sub(r'^Parser key "([^"]+)":\s*', r"\1: ", message)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "\n  ".join(lines[:4])
