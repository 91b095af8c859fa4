"""`odeflow plugins list | show | new`. Installed plugins are imported only if the catalogue does not know them."""

import argparse

from rich.console import Console
from rich.table import Table

from odeflow.cli.new import kinds, new
from odeflow.cli.startup import importing
from odeflow.config import recipes
from odeflow.config.request import Request
from odeflow.errors import PluginError
from odeflow.plugin import catalogue, registry
from odeflow.plugin.catalogue import Catalogue
from odeflow.plugin.description import Description, Option


def plugins(words: list[str]) -> int:
    """Runs the command. It knows the classes of torch and Lightning that recipes may name, too.

    Raises:
        PluginError: A kind or a plugin is unknown.
    """
    epilog = (
        "--plugins FILE|FOLDER|MODULE adds plugins that are not installed. What recipes name of torch and Lightning is "
        "listed by list optimizer, lr_scheduler, callback or logger, and shown by show, too."
    )
    parser = argparse.ArgumentParser("odeflow plugins", description="The plugins that are installed.", epilog=epilog)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="name all plugins").add_argument("kind", nargs="?", help="of this kind only")
    actions.add_parser("show", help="tell a plugin's meaning and options").add_argument("name")
    begun = actions.add_parser("new", help="write a plugin to begin with, and its test")
    begun.add_argument("kind", help=f"one of {', '.join(kinds())}")
    begun.add_argument("name", help="the name of its class, such as MySolver")
    begun.add_argument("--package", action="store_true", help="write a package to install, with a recipe")
    request = Request.of(words)
    given = parser.parse_args(request.words)
    if given.action == "new":
        print("\n".join(new(given.kind, given.name, given.package)))  # noqa: T201
        return 0
    with importing():
        known = catalogue.read(request.plugins)
    if given.action == "list":
        _list(known, given.kind, request.plugins)
    else:
        _show(known, given.name)
    return 0


def _list(known: Catalogue, kind: str | None, added: list[str]) -> None:
    if kind is not None and kind not in known:
        known = _foreign()
    if kind is not None and kind not in known:
        raise PluginError(registry.unknown("kind of plugin", kind, (*registry.kinds(), *known)))
    table = Table("kind", "plugin", "what it is", box=None, pad_edge=False)
    for each in [kind] if kind else known:
        for plugin in known[each]:
            table.add_row(each, plugin.name, plugin.summary)
    console = Console()
    console.print(table, markup=False)
    problems = [f"{package} could not be imported: {reason}" for package, reason in registry.failures().items()]
    if added:  # else the contracts are not imported
        problems += registry.unfinished(module for name in added for module in registry.load_named(name))
    for problem in problems:
        console.print(problem, style="red", highlight=False, markup=False)


def _show(known: Catalogue, name: str) -> None:
    console = Console()
    for what, plugin in _named(known, name):
        console.print(f"[bold]{name}[/bold], {what}: {plugin.path}\n", highlight=False)
        console.print(plugin.doc, highlight=False, markup=False)
        if plugin.options:
            table = Table("option", "default", "type", "meaning", box=None, pad_edge=False)
            for option in plugin.options:
                default = "required" if option.default is None else option.default
                table.add_row(option.name, default, _type(option), option.meaning)
            console.print()
            console.print(table, markup=False)


def _of_name(known: Catalogue, name: str) -> list[tuple[str, Description]]:
    """The classes of a name, each with its kind or option."""
    return [(what, each) for what, several in known.items() for each in several if each.name == name]


def _named(known: Catalogue, name: str) -> list[tuple[str, Description]]:
    """The plugins of a name, each with what it is; if there is none, the classes of a recipe that are no plugins.

    Raises:
        PluginError: There is neither.
    """
    found = [(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} plugin", each) for kind, each in _of_name(known, name)]
    if found:
        return found
    registry.discover()
    foreign = _foreign()
    found = [(f"for {_flag(what)} {name}", each) for what, each in _of_name(foreign, name)]
    if found:
        return found
    for reason in (registry.unfit(kind, name) for kind in reversed(registry.kinds())):
        if reason is not None:
            raise PluginError(f"no plugin named {name!r}: {reason}")
    names, others = ([each.name for several in listed.values() for each in several] for listed in (known, foreign))
    raise PluginError(registry.unknown("plugin", name, names, others))


def _foreign() -> Catalogue:
    """The classes that recipes name without their being plugins, by their contract."""
    from odeflow.cli import trust
    from odeflow.training import callbacks as callbacks  # some of which are for recipes

    found = {what: trust.foreign(what) for what in trust.CONTRACTS}
    return {
        what: [Description.of_foreign(known[name], skip=what in trust.FIRST) for name in sorted(known)]
        for what, known in found.items()
    }


def _flag(what: str) -> str:
    """The option of a run that takes classes of a contract."""
    from odeflow.cli import configuration, trust

    options = {what: f"trainer.{option}" for option, what in configuration.TRAINER.items()}
    return f"--{what if what in trust.FIRST else options[what]}{recipes.APPENDS if what == 'callback' else ''}"


def _type(option: Option) -> str:
    """The type of an option; of one that takes plugins, where to find them."""
    return option.type if not option.kinds else f"{option.type} (plugins list {option.kinds[0]})"
