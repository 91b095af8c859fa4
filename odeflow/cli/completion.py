"""Completion of commands, recipes, plugins and options in a shell, by argcomplete; and `odeflow completion`."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from odeflow.config import recipes
from odeflow.config.request import Request
from odeflow.errors import OdeflowError
from odeflow.plugin import catalogue
from odeflow.plugin.spec import mapping, path_of, sequence

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
SECTIONS = {"model": "task", "data": "data", "optimizer": "optimizer", "lr_scheduler": "lr_scheduler"}
HELP = f"""\
usage: odeflow completion {{{",".join(SHELLS)}}}

Prints the code by which a shell completes commands, recipes, plugins and their options. In ~/.bashrc or ~/.zshrc:

  eval "$(odeflow completion bash)"
"""
Words = Callable[[], Iterable[str]]


def completion(words: list[str]) -> int:
    """Runs the command.

    Raises:
        OdeflowError: The shell is unknown, or argcomplete is not installed.
    """
    if words in ([], ["-h"], ["--help"]):
        print(HELP, end="")  # noqa: T201
        return 0
    if len(words) > 1 or words[0] not in SHELLS:
        raise OdeflowError(f"odeflow completion takes one of {', '.join(SHELLS)}; got {' '.join(words)}")
    try:
        import argcomplete
    except ImportError as problem:
        raise OdeflowError('completion needs argcomplete: pip install "odeflow[completion]"') from problem
    print(argcomplete.shellcode(["odeflow"], shell=words[0]))  # pyright: ignore  # noqa: T201
    return 0


def complete(commands: Iterable[str]) -> None:
    """Answers the shell, which gives the line in variables of the environment, and ends the process.

    Args:
        commands: The names of the commands.
    """
    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0"))]
    try:
        typed = shlex.split(line)[1:]
    except ValueError:  # an open quote
        typed = line.split()[1:]
    parser = argparse.ArgumentParser("odeflow", add_help=False)
    subparsers = parser.add_subparsers()
    for name in commands:
        each = subparsers.add_parser(name, add_help=False)
        if typed and typed[0] == name:
            _add(each, name, typed[1:])
    autocomplete(parser, always_complete_options=False)


def autocomplete(parser: argparse.ArgumentParser, **options: Any) -> None:
    """Ends the process with the words that may follow; with none if argcomplete is not installed."""
    try:
        import argcomplete
    except ImportError:
        sys.exit(1)
    argcomplete.autocomplete(parser, **options)


def _add(parser: argparse.ArgumentParser, command: str, typed: list[str]) -> None:
    """Adds the arguments of a command."""
    if command == "recipes":
        _add_actions(parser, {"list": None, "show": recipes.available, "copy": recipes.available})
    elif command == "plugins":
        _add_actions(parser, {"list": catalogue.read, "show": _plugins, "new": catalogue.read})
    elif command == "runs":
        _add_actions(parser, {"list": recipes.available, "compare": None, "best": recipes.available})
    elif command == "completion":
        parser.add_argument("shell", choices=SHELLS)
    elif command in ("fit", "validate", "test", "predict", "grid", "check"):
        if command in ("grid", "check"):
            _complete(parser.add_argument("recipe", nargs="*"), recipes.available)
        _complete(parser.add_argument("-c", "--config", action="append"), recipes.available, files=True)
        for option in ("--plugins", "--ckpt_path", "--weights"):
            parser.add_argument(option, action="append", nargs="?")  # completed by the names of files
        for option in ("--help", "--help-all", "--print_config"):
            parser.add_argument(option, action="store_true")
        for option, (text, values) in _options(typed).items():
            added = parser.add_argument(f"--{option}", help=text.replace("%", "%%"), nargs="?")
            if values:
                _complete(added, lambda values=values: values)


def _add_actions(parser: argparse.ArgumentParser, actions: Mapping[str, Words | None]) -> None:
    subparsers = parser.add_subparsers()
    for action, words in actions.items():
        each = subparsers.add_parser(action, add_help=False)
        if words is not None:
            _complete(each.add_argument("name", nargs="*"), words)


def _complete(action: argparse.Action, words: Words, files: bool = False) -> None:
    """Completes an argument by words, and by the names of files if it may be one."""

    def completer(prefix: str, **_: Any) -> list[str]:
        from argcomplete.completers import FilesCompleter

        found = [word for word in words() if word.startswith(prefix)]
        return found + (list(FilesCompleter()(prefix)) if files else [])

    action.completer = completer  # pyright: ignore[reportAttributeAccessIssue]


def _plugins() -> list[str]:
    return [plugin.name for several in catalogue.read().values() for plugin in several]


def _options(typed: list[str]) -> dict[str, tuple[str, list[str]]]:
    """The options of the classes that the recipes and the words before name: (meaning, known values)."""
    config: dict[str, Any] = {}
    try:
        request = Request.of(typed[:-1])
        for name in request.configs:
            config = recipes.merge(config, recipes.read(name))
        config = request.effective(config)
    except OdeflowError:  # a line that is not complete
        pass
    schema = catalogue.cached("schema", _schema)
    found = {"seed_everything": ("Seed of all random numbers.", list[str]())}
    for section, kind in SECTIONS.items():
        found |= _of_kind(schema["definitions"], section, kind, config.get(section), set())
    for section in ("trainer", "faults", "figures", "saving"):
        for name, option in schema["properties"][section]["properties"].items():
            found[f"{section}.{name}"] = (option.get("description", ""), _values(schema["definitions"], option))
    return found


def _schema() -> dict[str, Any]:
    from odeflow.cli.schema import recipe_schema
    from odeflow.plugin import registry

    registry.discover()
    return recipe_schema()


def _of_kind(
    definitions: Mapping[str, Any], place: str, kind: str, chosen: Any, outer: set[str]
) -> dict[str, tuple[str, list[str]]]:
    """The option that takes a class of a kind, and those of the chosen class; of all if none is chosen."""
    names: list[str] = definitions[kind]["then"]["anyOf"][0]["enum"]
    found = {place: (f"A {kind} by name.", names)}
    if kind in outer:  # such as dynamics inside dynamics
        return found
    name = path_of(chosen).rpartition(".")[2]
    given = mapping((mapping(chosen) or {}).get("init_args")) or {}
    for each in [name] if name in names else names:
        for option, schema in definitions[f"{kind}.{each}"]["properties"].items():
            within = f"{place}.{option}"
            several = [schema, *schema.get("anyOf", [])]
            found[within] = (schema.get("description", ""), _values(definitions, schema))
            for inner in several:
                if "$ref" in inner:
                    nested = inner["$ref"].rpartition("/")[2]
                    found |= _of_kind(definitions, within, nested, given.get(option), outer | {kind})
                for sub, text in inner.get("properties", {}).items():
                    found[f"{within}.{sub}"] = (text.get("description", ""), _values(definitions, text))
    return found


def _values(definitions: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """The values that an option is known to take."""
    return list(dict.fromkeys(_listed(definitions, schema)))


def _listed(definitions: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    yield from map(str, sequence(schema.get("enum")) or ())
    if schema.get("type") == "boolean":
        yield from ("true", "false")
    if "$ref" in schema:
        yield from definitions[schema["$ref"].rpartition("/")[2]]["then"]["anyOf"][0]["enum"]
    for inner in schema.get("anyOf", ()):
        yield from _listed(definitions, inner)
