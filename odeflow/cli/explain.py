"""Says what is wrong with a configuration in a line, before the parser says it in sixty."""

import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from odeflow import registry
from odeflow.errors import PluginError
from odeflow.plugin import Plugin, import_path

STRUCTURE = {"class_path", "init_args", "dict_kwargs"}


def check(config: Mapping[str, Any]) -> None:
    """Checks the plugins that a configuration names, and their options' names, all the way down.

    Args:
        config: Nested, with `model` and `data` as class specs or names.

    Raises:
        PluginError: A plugin or an option does not exist; the message names the place, the nearest, and all.
    """
    for key, kind in (("model", "task"), ("data", "data")):
        if config.get(key) is not None:
            _check_plugin(key, config[key], kind)


def _check_plugin(place: str, node: Any, kind: str) -> None:
    if isinstance(node, str):
        node = {"class_path": node}
    if not isinstance(node, Mapping):
        raise PluginError(f"{place}: a {kind} plugin is wanted, by name; got {node!r}")
    if "class_path" not in node:
        raise PluginError(f"{place}: which {kind}? Give class_path: one of {', '.join(registry.plugins(kind))}")
    path = str(node["class_path"])
    name = path.rpartition(".")[2]
    stray = [str(key) for key in node if key not in STRUCTURE]
    if stray:
        raise PluginError(
            f"{place}: the options of {name} go under init_args: write "
            f"{{class_path: {name}, init_args: {{{', '.join(f'{key}: …' for key in stray)}}}}}"
        )
    cls = _find(place, path, kind)
    options = node.get("init_args") or {}
    parameters = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for option in options:
            if option not in parameters:
                raise PluginError(f"{place}: {no_option(cls.__name__, option, list(parameters))}")
    for option, nested in _plugin_options(cls).items():
        if options.get(option) is not None:
            _check_plugin(f"{place}.{option}", options[option], nested)


def _find(place: str, path: str, kind: str) -> type[Plugin]:
    known = registry.plugins(kind)
    for name, cls in known.items():
        if path in (name, import_path(cls)):
            return cls
    name = path.rpartition(".")[2]
    if "." in path and name in known:  # re-exported, or moved since
        return known[name]
    raise PluginError(f"{place}: {registry.unknown(kind, path, known)}")


def _plugin_options(cls: type[Plugin]) -> dict[str, str]:
    """The options of a plugin that take plugins, with their kinds."""
    contracts = {registry.contract(kind): kind for kind in registry.CONTRACTS}
    found: dict[str, str] = {}
    for option, annotation in typing.get_type_hints(cls.__init__).items():
        for part in (annotation, *typing.get_args(annotation)):
            if part in contracts:
                found[option] = contracts[part]
    return found


def no_option(owner: str, option: str, known: Sequence[str]) -> str:
    """The message for an option that a class does not have."""
    near = get_close_matches(option, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{owner} has no option {option!r}.{hint}  options: {', '.join(known) or 'none'}"


def shortened(message: str, known: Sequence[str]) -> str:
    """The parser's own message in a few lines; one that is not understood is passed on as it is.

    Args:
        message: What the parser says.
        known: The option names of the command, such as `trainer.max_epochs`.
    """
    unrecognized = re.search(r"[Uu]nrecognized arguments: (.+)", message)
    if unrecognized:
        word = unrecognized[1].split()[0]
        option = word.lstrip("-").partition("=")[0]
        near = get_close_matches(option, known, n=1)
        hint = f" Did you mean --{near[0]}?" if near else ""
        return f"there is no option {word.partition('=')[0]}.{hint}"
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    return "\n  ".join(lines[:1] + lines[-2:] if len(lines) > 4 else lines)
