"""The registry of plugins: a view of the subclasses of each contract, so that the two cannot disagree."""

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from abc import ABC
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

from odeflow.errors import OdeflowError, PluginError
from odeflow.plugin.plugin import OptionGroup, Plugin, groups, import_path, subclasses, unknown_option
from odeflow.plugin.spec import class_spec, mapping, sequence, shown

GROUP = "odeflow.plugins"
VARIABLE = "ODEFLOW_PLUGINS"
CONTRACTS = {
    "solver": "odeflow.engine.solver:Solver",
    "dynamics": "odeflow.flow.dynamics:Dynamics",
    "gradient": "odeflow.engine.gradients:Gradient",
    "divergence": "odeflow.flow.divergence:Divergence",
    "regularizer": "odeflow.flow.regularizers:Regularizer",
    "task": "odeflow.training.task:Task",
    "data": "odeflow.training.data:DataModule",
}
"""The contract of each of odeflow's own kinds, imported on first use."""

UNBUILDABLE = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Exceptions that constructors raise on invalid options."""

_failures: dict[str, str] = {}
_loaded: set[EntryPoint] = set()
_trusted: set[str] = set()


def contract(kind: str) -> type[Plugin]:
    """The abstract base class of the plugins of a kind.

    Raises:
        PluginError: `kind` is unknown.
    """
    if kind in CONTRACTS:
        module, name = CONTRACTS[kind].split(":")
        return getattr(importlib.import_module(module), name)
    others = _other_contracts()
    if kind not in others:
        raise PluginError(unknown("kind of plugin", kind, kinds()))
    return others[kind]


def kinds() -> list[str]:
    """The kinds of plugins: odeflow's own, and those whose contract is defined by an imported package."""
    return [*CONTRACTS, *_other_contracts()]


def _other_contracts() -> dict[str, type[Plugin]]:
    """The contracts defined by other packages, by kind: the classes that set `kind` themselves."""
    own = {cls.kind: cls for cls in subclasses(Plugin) if "kind" in vars(cls)}
    return {kind: own[kind] for kind in sorted(own) if kind not in CONTRACTS}


def discover(extra: Iterable[str] = ()) -> None:
    """Imports the installed plugin packages, the plugins named in $ODEFLOW_PLUGINS, and `extra`.

    An installed package that fails to import is recorded in `failures` and does not affect the others. Plugins named
    by the user, in `extra` or in the environment, must import.

    Args:
        extra: Files, folders of files, or modules.

    Raises:
        PluginError: A plugin named by the user cannot be imported, or two plugins of a kind share a name.
    """
    for entry in packages():
        _load(entry)
    named = [name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]
    for name in (*named, *extra):
        load_named(name)
    for kind in kinds():
        plugins(kind)


def find(kind: str, name: str) -> type[Plugin]:
    """The installed plugin class of this name. Packages are imported only until it is found.

    Packages whose entry point is named after the kind, such as odeflow's own `solvers`, come first.

    Raises:
        PluginError: No installed plugin of this kind has this name.
    """
    if name not in plugins(kind):
        for entry in sorted(packages(), key=lambda entry: not entry.name.startswith(kind)):
            _load(entry)
            if name in plugins(kind):
                break
    return look_up(kind, name)


@cache
def packages() -> tuple[EntryPoint, ...]:
    """The entry points of the installed plugin packages, sorted by name; they are read once."""
    return tuple(sorted(entry_points(group=GROUP), key=lambda entry: entry.name))


def _load(entry: EntryPoint) -> None:
    """Imports a plugin package once, and records a failure."""
    if entry in _loaded:
        return
    _loaded.add(entry)
    try:
        entry.load()
    except Exception as problem:  # an error in a third-party package must not stop the others
        _failures[f"{entry.name} ({entry.value})"] = f"{type(problem).__name__}: {problem}"


def loaded() -> bool:
    """Whether plugin packages have been imported in this process."""
    return bool(_loaded)


def failures() -> dict[str, str]:
    """Plugin packages that could not be imported, with the reason."""
    return dict(_failures)


def trusted() -> set[str]:
    """The modules that the user named as plugins: whatever they define may be named in a configuration."""
    return set(_trusted)


def load_named(name: str) -> list[ModuleType]:
    """Imports plugins from a file, every `.py` file of a folder, or a module; these modules are `trusted` from then on.

    Raises:
        PluginError: No file, folder or module has this name, or it fails to import.
    """
    modules = _imported(name)
    _trusted.update(module.__name__ for module in modules)
    return modules


def _imported(name: str) -> list[ModuleType]:
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
    """Imports a single file once, as a module named after its stem."""
    source = path.resolve()
    name = source.stem
    present = sys.modules.get(name)
    if present is not None and getattr(present, "__file__", None) == str(source):
        return present
    found = None if present is not None else importlib.util.find_spec(name)
    if present is not None or (found is not None and found.origin != str(source)):  # the name is taken
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
        PluginError: `kind` is unknown, or two of its plugins share a name.
    """
    found: dict[str, type[Plugin]] = {}
    for cls in _concrete_subclasses(contract(kind)):
        name, present = cls.__name__, found.get(cls.__name__)
        if present is not None and (present.__module__, present.__qualname__) != (cls.__module__, cls.__qualname__):
            raise PluginError(
                f"two {kind} plugins are called {name}: {import_path(present)} and {import_path(cls)}. Rename one"
            )
        found[name] = cls  # a redefined class, as in a notebook, replaces the old one
    return dict(sorted(found.items()))


def _concrete_subclasses(cls: type[Plugin]) -> Iterator[type[Plugin]]:
    for subclass in subclasses(cls):
        private = subclass.__name__.startswith("_") or "<locals>" in subclass.__qualname__
        if not _is_base(subclass) and not private:
            yield subclass


def _is_base(cls: type) -> bool:
    """Whether a class is a base class: it has abstract methods, or ABC among its direct bases."""
    return inspect.isabstract(cls) or ABC in cls.__bases__


def look_up(kind: str, name: str) -> type[Plugin]:
    """The plugin class of this name.

    Raises:
        PluginError: No plugin of this kind has this name. The message names the closest match and lists all plugins.
    """
    known = plugins(kind)
    if name not in known:
        raise PluginError(absent(kind, name))
    return known[name]


def absent(kind: str, name: str) -> str:
    """The message for an unknown plugin name: what its class lacks, or the closest match and all known names."""
    return (
        f"no {kind} named {name!r}: {reason}" if (reason := unfit(kind, name)) else unknown(kind, name, plugins(kind))
    )


def unfit(kind: str, name: str) -> str | None:
    """Why a class of this name is not a plugin of a kind; None if there is no such class."""
    wanted = contract(kind)
    for cls in subclasses(wanted):
        if cls.__name__ != name:
            continue
        if inspect.isabstract(cls):
            return f"the class {import_path(cls)} lacks {_lacking(cls)}"
        if _is_base(cls):
            return f"the class {import_path(cls)} is for others to subclass, since ABC is among its bases"
    foreign = [base for base in wanted.__mro__ if base.__module__.startswith(("lightning.", "torch."))]
    for cls in subclasses(foreign[0]) if foreign else ():
        if cls.__name__ == name and not issubclass(cls, Plugin):
            door = f"odeflow.{wanted.__name__}"
            return f"{import_path(cls)} is a {foreign[0].__name__}, but no {door}; subclass {door} instead"
    return None


def unfinished(modules: Iterable[ModuleType]) -> Iterator[str]:
    """What the classes of modules lack that subclass a contract, have no ABC among their bases, and are no plugins."""
    defining = {module.__name__ for module in modules}
    for kind in kinds():
        for cls in subclasses(contract(kind)):
            if cls.__module__ in defining and inspect.isabstract(cls) and ABC not in cls.__bases__:
                yield f"the class {import_path(cls)} is no {kind} plugin yet: it lacks {_lacking(cls)}"


def _lacking(cls: type[Any]) -> str:
    """The abstract methods and attributes that a class lacks, each with the closest name that it defines."""
    parts: list[str] = []
    for name in sorted(cls.__abstractmethods__):
        near = get_close_matches(name, vars(cls), n=1)
        parts.append(f"{name} (it has {near[0]})" if near else name)
    return ", ".join(parts)


def build(spec: dict[str, Any]) -> Any:
    """Builds the plugin described by a spec, nested plugins included.

    Only registered plugins are built: a spec cannot run any other code.

    Args:
        spec: `{"class_path": …, "init_args": {…}}`, as returned by `Plugin.spec`.

    Raises:
        PluginError: `spec` is malformed, a plugin in it is not registered, or its options are invalid.
    """
    found = class_spec(spec)
    options = mapping(spec.get("init_args", {})) if found else None
    if found is None or options is None or not isinstance(found["class_path"], str):
        raise PluginError(f"a plugin is built of {{class_path: NAME, init_args: {{…}}}}; got {shown(spec)}")
    cls, arguments = class_of(found["class_path"]), _built(options)
    check_options(cls, arguments)
    with building(cls.__name__):
        for name, group in groups(cls).items():
            if name in arguments:
                arguments[name] = _grouped(cls, name, group, arguments[name])
        return cls(**arguments)


def _grouped(cls: type, name: str, group: type[OptionGroup], options: Any) -> OptionGroup:
    """Builds an option group from its stored mapping."""
    entries = mapping(options)
    if entries is None:
        raise PluginError(f"{cls.__name__}: {name} must be options of {group.__name__}; got {shown(options)}")
    check_options(group, entries, f"{cls.__name__}.{name}")
    return replace(inspect.signature(cls.__init__).parameters[name].default, **entries)


@contextlib.contextmanager
def building(name: str) -> Generator[None]:
    """Converts an exception raised by a constructor into a PluginError that names the class.

    Raises:
        PluginError: The constructor raised an exception.
    """
    try:
        yield
    except OdeflowError:
        raise
    except UNBUILDABLE as problem:
        raise PluginError(f"{name} cannot be built: {cause(problem)}") from problem


def cause(problem: BaseException) -> str:
    """The first line of a third-party error, with the place where it was raised unless the text is meant for users."""
    text = str(problem).strip().partition("\n")[0][:300]
    if isinstance(problem, (ValueError, ImportError)) and text:
        return text
    frames = traceback.extract_tb(problem.__traceback__)
    origin = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), frames[-1])
    hint = ". Does __init__ call super().__init__() first?" if isinstance(problem, AttributeError) else ""
    return f"{type(problem).__name__}: {text} ({Path(origin.filename).name}, line {origin.lineno}){hint}"


def _built(value: Any) -> Any:
    if class_spec(value) is not None:
        return build(value)
    items, entries = sequence(value), mapping(value)
    if entries is not None:
        return {key: _built(item) for key, item in entries.items()}
    return value if items is None else [_built(item) for item in items]


def class_of(path: str) -> type[Plugin]:
    """The registered class of an import path or a name. A class that has moved is found by its name if that is unique.

    Raises:
        PluginError: There is no such class, or plugins of several kinds have this name.
    """
    known = [cls for kind in kinds() for cls in plugins(kind).values()]
    for cls in known:
        if import_path(cls) == path:
            return cls
    namesakes = [cls for cls in known if cls.__name__ == path.rpartition(".")[2]]
    if len(namesakes) == 1:
        return namesakes[0]
    if namesakes and "." not in path:
        paths = " or ".join(import_path(cls) for cls in namesakes)
        raise PluginError(f"several plugins are named {path}; write which one: {paths}")
    raise PluginError(missing(path))


def mapping_options(path: str) -> set[str]:
    """The options of an imported plugin whose values are mappings, those of its groups as `group.option`.

    Args:
        path: Its name or import path; no option of an unknown one is known.
    """
    name = path.rpartition(".")[2]
    return {option for cls in subclasses(Plugin) if cls.__name__ == name for option in _mapping_options(cls)}


def _mapping_options(cls: type, prefix: str = "") -> Iterator[str]:
    for option, hint in get_type_hints(cls.__init__).items():
        if any(get_origin(each) in (dict, Mapping) for each in (hint, *get_args(hint))):
            yield prefix + option
    for option, group in groups(cls).items():
        yield from _mapping_options(group, f"{option}.")


def missing(path: str) -> str:
    """The message for a stored class path that matches no plugin, with what to do."""
    module, _, name = path.rpartition(".")
    return (
        f"the plugin {name} (of {module}) is not registered. Install its package, or load its file with "
        "--plugins FILE on the command line, odeflow.load(…, plugins=[FILE]) in Python"
    )


def unknown(what: str, name: str, known: Iterable[str], others: Iterable[str] = ()) -> str:
    """The message for an unknown name: the closest match and all known names.

    Args:
        what: What the name is to be of.
        name: The unknown name.
        known: The known names.
        others: Further ones, for the closest match alone.
    """
    names = list(known)
    lowered = {candidate.lower(): candidate for candidate in (*others, *names)}
    near = get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    hint = f" Did you mean {lowered[near[0]]}?" if near else ""
    return f"no {what} named {name!r}.{hint}  available: {', '.join(names) or 'none'}"


def check_options(cls: type, options: Iterable[str], place: str = "", skip: int = 1) -> None:
    """Checks that a class has options of these names.

    Args:
        cls: The class.
        options: Option names from a configuration or a checkpoint.
        place: Their location in the configuration, for the message.
        skip: Number of leading constructor parameters that are not options, `self` included.

    Raises:
        PluginError: The class has no option of a given name. The message names the closest match and lists all options.
    """
    problem = unknown_option(cls, options, skip)
    if problem is not None:
        raise PluginError(f"{place}: {problem}" if place else problem)
