"""The registry: which plugins there are. A view of the contracts' subclasses, so that it cannot disagree with them."""

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from odeflow.errors import PluginError
from odeflow.plain import class_spec, mapping, sequence
from odeflow.plugin import Plugin, import_path

GROUP = "odeflow.plugins"
VARIABLE = "ODEFLOW_PLUGINS"
CONTRACTS = {
    "solver": "odeflow.solver:Solver",
    "dynamics": "odeflow.dynamics:Dynamics",
    "gradient": "odeflow.gradient:Gradient",
    "divergence": "odeflow.divergence:Divergence",
    "regularizer": "odeflow.regularization:Regularizer",
    "task": "odeflow.task:Task",
    "data": "odeflow.data:DataModule",
}
"""Each kind's contract, imported when it is asked for."""

_failures: dict[str, str] = {}
_discovered = False


def contract(kind: str) -> type[Plugin]:
    """The abstract class that plugins of a kind subclass.

    Raises:
        PluginError: There is no such kind.
    """
    if kind not in CONTRACTS:
        raise PluginError(unknown("kind of plugin", kind, CONTRACTS))
    module, name = CONTRACTS[kind].split(":")
    return getattr(importlib.import_module(module), name)


def discover(extra: Iterable[str] = ()) -> None:
    """Imports the installed plugin packages, what $ODEFLOW_PLUGINS names, and `extra`.

    A package that fails to import is noted in `failures` and takes nothing else down; what the user named, by
    `extra` or in the environment, must import.

    Args:
        extra: Files, folders of files, or modules.

    Raises:
        PluginError: A plugin named by the user cannot be imported, or two plugins of a kind share a name.
    """
    global _discovered
    if not _discovered:
        _discovered = True
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
            try:
                entry.load()
            except Exception as problem:  # whatever a foreign package raises must not stop the others
                _failures[f"{entry.name} ({entry.value})"] = f"{type(problem).__name__}: {problem}"
    named = [name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]
    for name in (*named, *extra):
        load_named(name)
    for kind in CONTRACTS:
        plugins(kind)


def failures() -> dict[str, str]:
    """Plugin packages that could not be imported, with the reason."""
    return dict(_failures)


def load_named(name: str) -> list[ModuleType]:
    """Imports plugins from a file, from every `.py` file of a folder, or from a module.

    Raises:
        PluginError: There is nothing of that name, or it fails to import.
    """
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            return [module for file in sorted(path.glob("*.py")) for module in load_named(str(file))]
        if path.suffix == ".py":
            if not path.is_file():
                raise PluginError(f"there is no plugin file {name}")
            return [_import_file(path)]
        return [importlib.import_module(name)]
    except PluginError:
        raise
    except ModuleNotFoundError as problem:
        if problem.name == name:
            raise PluginError(f"there is no plugin file, folder or module {name}") from problem
        raise PluginError(f"plugins from {name} cannot be imported: {problem}") from problem
    except Exception as problem:
        raise PluginError(f"plugins from {name} cannot be imported: {type(problem).__name__}: {problem}") from problem


def _import_file(path: Path) -> ModuleType:
    """Imports a loose file as a module of its stem's name, once."""
    source = path.resolve()
    name = source.stem
    present = sys.modules.get(name)
    if present is not None and getattr(present, "__file__", None) == str(source):
        return present
    found = None if present is not None else importlib.util.find_spec(name)
    if present is not None or (found is not None and found.origin != str(source)):  # the name is somebody else's
        name = f"{name}_{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
    specification = importlib.util.spec_from_file_location(name, source)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def plugins(kind: str) -> dict[str, type[Plugin]]:
    """The concrete plugins of a kind by name, sorted.

    Raises:
        PluginError: There is no such kind, or two of its plugins share a name.
    """
    found: dict[str, type[Plugin]] = {}
    for cls in _concrete_subclasses(contract(kind)):
        name, present = cls.__name__, found.get(cls.__name__)
        if present is not None and import_path(present) != import_path(cls):
            raise PluginError(
                f"two {kind} plugins are called {name}: {import_path(present)} and {import_path(cls)}. Rename one"
            )
        found[name] = cls  # a class defined again, as in a notebook, replaces the old one
    return dict(sorted(found.items()))


def _concrete_subclasses(cls: type[Plugin]) -> Iterator[type[Plugin]]:
    for subclass in cls.__subclasses__():
        private = subclass.__name__.startswith("_") or "<locals>" in subclass.__qualname__
        if not inspect.isabstract(subclass) and not private:
            yield subclass
        yield from _concrete_subclasses(subclass)


def look_up(kind: str, name: str) -> type[Plugin]:
    """The plugin class of this name.

    Raises:
        PluginError: There is none; the message names the nearest and lists what there is.
    """
    known = plugins(kind)
    if name not in known:
        raise PluginError(unknown(kind, name, known))
    return known[name]


def build(spec: dict[str, Any]) -> Any:
    """The plugin that a spec describes, with the plugins inside it.

    Only registered plugins are built: a spec cannot make anything else run.

    Args:
        spec: `{"class_path": …, "init_args": {…}}`, as `Plugin.spec` gives it.

    Raises:
        PluginError: A plugin in it is not registered, or has no such option.
    """
    cls, arguments = class_of(spec["class_path"]), _built(spec.get("init_args", {}))
    check_options(cls, arguments)
    return cls(**arguments)


def _built(value: Any) -> Any:
    if class_spec(value) is not None:
        return build(value)
    items, entries = sequence(value), mapping(value)
    if entries is not None:
        return {key: _built(item) for key, item in entries.items()}
    return value if items is None else [_built(item) for item in items]


def class_of(path: str) -> type[Plugin]:
    """The registered class of an import path; one that has moved since is found by its name, if that is unique."""
    known = [cls for kind in CONTRACTS for cls in plugins(kind).values()]
    for cls in known:
        if import_path(cls) == path:
            return cls
    namesakes = [cls for cls in known if cls.__name__ == path.rpartition(".")[2]]
    if len(namesakes) == 1:
        return namesakes[0]
    raise PluginError(missing(path))


def missing(path: str) -> str:
    """The message for a class path, as a checkpoint keeps it, of which there is no plugin: what to do."""
    module, _, name = path.rpartition(".")
    return (
        f"the plugin {name} (of {module}) is not registered. Install its package, or load its file with "
        "--plugins FILE on the command line, odeflow.load(…, plugins=[FILE]) in Python"
    )


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not known: the nearest one, and all there are."""
    names = list(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    near = get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    hint = f" Did you mean {lowered[near[0]]}?" if near else ""
    return f"no {what} named {name!r}.{hint}  available: {', '.join(names) or 'none'}"


def check_options(cls: type, options: Iterable[str], place: str = "", skip: int = 1) -> None:
    """Checks that a class has options of these names.

    Args:
        cls: The class.
        options: The names, as a configuration or a checkpoint has them.
        place: Where they stand, for the message.
        skip: Number of its constructor's parameters that are no options, the first of which is `self`.

    Raises:
        PluginError: It has none of a name; the message names the nearest and lists what there is.
    """
    own = inspect.signature(cls.__init__).parameters if cls.__init__ is not object.__init__ else {}
    known = dict(list(own.items())[skip:])
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for option in options:
        if option not in known:
            near = get_close_matches(option, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            listed = ", ".join(known) or "none"
            where = f"{place}: " if place else ""
            raise PluginError(f"{where}{cls.__name__} has no option {option!r}.{hint}  options: {listed}")
