"""`odeflow plugins list | show`."""

import argparse
import inspect

from rich.console import Console
from rich.table import Table

from odeflow.config.request import Request
from odeflow.errors import PluginError
from odeflow.plugin import registry
from odeflow.plugin.plugin import Plugin, groups, import_path


def plugins(words: list[str]) -> int:
    """Runs the command.

    Raises:
        PluginError: A kind or a plugin is unknown.
    """
    epilog = "--plugins FILE|FOLDER|MODULE adds plugins that are not installed."
    parser = argparse.ArgumentParser("odeflow plugins", description="The plugins that are installed.", epilog=epilog)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="name all plugins").add_argument("kind", nargs="?", help="of this kind only")
    actions.add_parser("show", help="tell a plugin's meaning and options").add_argument("name")
    request = Request.of(words)
    given = parser.parse_args(request.words)
    registry.discover(request.plugins)
    if given.action == "list":
        _list(given.kind)
    else:
        _show(given.name)
    return 0


def _list(kind: str | None) -> None:
    table = Table("kind", "plugin", "what it is", box=None, pad_edge=False)
    for each in [kind] if kind else registry.kinds():
        for name, cls in registry.plugins(each).items():
            table.add_row(each, name, _summary(cls))
    console = Console()
    console.print(table, markup=False)
    for package, reason in registry.failures().items():
        console.print(f"{package} could not be imported: {reason}", style="red", highlight=False, markup=False)


def _show(name: str) -> None:
    named = {cls: kind for kind in registry.kinds() for each, cls in registry.plugins(kind).items() if each == name}
    if not named:
        for reason in (registry.unfit(kind, name) for kind in reversed(registry.kinds())):
            if reason is not None:
                raise PluginError(f"no plugin named {name!r}: {reason}")
        every = [each for kind in registry.kinds() for each in registry.plugins(kind)]
        raise PluginError(registry.unknown("plugin", name, every))
    console = Console()
    for cls, kind in named.items():
        article = "an" if kind[0] in "aeiou" else "a"
        console.print(f"[bold]{name}[/bold], {article} {kind} plugin: {import_path(cls)}\n", highlight=False)
        console.print(inspect.cleandoc(cls.__doc__ or ""), highlight=False, markup=False)
        owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
        if owner is not cls and issubclass(owner, Plugin):
            text = f"\nOptions as of {owner.__name__}. {inspect.cleandoc(owner.__doc__ or '')}"
            console.print(text, highlight=False, markup=False)
        options = Table("option", "type", "default", box=None, pad_edge=False)
        _add_rows(options, cls)
        if options.row_count:
            console.print()
            console.print(options, markup=False)
        for option, group in groups(cls).items():
            console.print(f"\n{option}: {inspect.cleandoc(group.__doc__ or '')}", highlight=False, markup=False)


def _add_rows(table: Table, cls: type, prefix: str = "") -> None:
    """Adds a row for each option of a class, and for each field of its option groups."""
    inside = groups(cls)
    for option in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        if option.kind in (option.VAR_POSITIONAL, option.VAR_KEYWORD):  # the class has no constructor
            continue
        if option.name in inside:
            _add_rows(table, inside[option.name], f"{option.name}.")
            continue
        default = "required" if option.default is option.empty else repr(option.default)
        table.add_row(prefix + option.name, inspect.formatannotation(option.annotation), default)


def _summary(cls: type[Plugin]) -> str:
    return inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]
