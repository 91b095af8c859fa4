"""Plugin: an object that remembers, as plain data, how it was built."""

import inspect
import math
import sys
from abc import ABC
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, ClassVar, Self

from odeflow.errors import PluginError, SettingError
from odeflow.plugin.spec import mapping, sequence

PLAIN = (str, int, float, bool, type(None))


class _Unstorable:
    """Stands in a remembered spec for a value that plain data cannot express."""

    def __init__(self, value: object) -> None:
        self.text = repr(value)[:80]


def import_path(cls: type) -> str:
    """The name by which a class is imported, `package.Class`: of the outermost package that exports it.

    So a stored name outlives a move between files. Where no package exports the class, it is `module.Class`.
    """
    parts = cls.__module__.split(".")
    homes = (".".join(parts[:length]) for length in range(1, len(parts)))
    exporting = (home for home in homes if getattr(sys.modules.get(home), cls.__qualname__, None) is cls)
    return f"{next(exporting, cls.__module__)}.{cls.__qualname__}"


@dataclass(frozen=True)
class OptionGroup:
    """Options that belong together: a subclass is a frozen dataclass that documents them once, for all who take it.

    A plugin takes a group as one argument, of which an instance is the default. It is stored as a mapping, and on the
    command line each of its fields is an option: `--model.flow.t1 2`.
    """


def groups(cls: type) -> dict[str, type[OptionGroup]]:
    """The arguments of a class's constructor that are groups of options, by name."""
    defaults = {name: option.default for name, option in _options(cls).items()}
    return {name: type(default) for name, default in defaults.items() if isinstance(default, OptionGroup)}


def _plain(value: object) -> Any:
    """`value` as plain data; a plugin becomes its spec, anything else a marker that `spec` refuses."""
    if isinstance(value, Plugin):
        return value.remembered_spec
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, OptionGroup):
        return _plain(vars(value))
    items, entries = sequence(value), mapping(value)
    if items is not None:
        return [_plain(item) for item in items]
    if entries is not None:
        return {str(key): _plain(item) for key, item in entries.items()}
    return _Unstorable(value)


def _require_plain(value: object, owner: str, path: str) -> None:
    if isinstance(value, _Unstorable):
        raise PluginError(
            f"{owner} cannot be stored: its argument {path} is {value.text}, neither plain data nor a plugin. "
            "Give a str, number, bool, list, dict or Plugin"
        )
    entries = mapping(value) or dict(enumerate(sequence(value) or ()))
    for key, item in entries.items():
        _require_plain(item, owner, f"{path}.{key}" if path else str(key))


def _require_finite(value: object, owner: str, path: str) -> None:
    """Refuses inf and nan, of which no option makes sense; what is unbounded or unknown is None."""
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingError(f"{owner}: {path} must be a finite number; got {value}")
    entries = mapping(value) or dict(enumerate(sequence(value) or ()))
    for key, item in entries.items():
        _require_finite(item, owner, f"{path}.{key}" if path else str(key))


def _arguments(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What `cls(*args, **kwargs)` gives to each parameter by name, defaults included.

    Raises:
        SettingError: It has no option of that name.
    """
    problem = unknown_option(cls, kwargs)
    if problem is not None:
        raise SettingError(problem)
    signature = inspect.signature(cls.__init__)
    try:
        bound = signature.bind_partial(None, *args, **kwargs)
    except TypeError:  # the call is wrong, and __init__ is about to say so better
        return {}
    bound.apply_defaults()
    arguments: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= value
        elif kind is not inspect.Parameter.VAR_POSITIONAL or value:
            arguments[name] = value
    return arguments


def subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    """All that subclass a class, at any distance."""
    for subclass in cls.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def _options(cls: type) -> dict[str, inspect.Parameter]:
    """The parameters of a class's constructor."""
    own = inspect.signature(cls.__init__).parameters if cls.__init__ is not object.__init__ else {}
    return dict(list(own.items())[1:])


def unknown_option(cls: type, options: Iterable[str], skip: int = 1) -> str | None:
    """What is wrong with options of which a class has not all; None if it has them.

    Args:
        cls: The class.
        options: Their names.
        skip: Number of its constructor's parameters that are no options, the first of which is `self`.

    Returns:
        The first that it does not have, the nearest and all that it has, and which plugins of its kind have that one.
    """
    known = dict(list(_options(cls).items())[skip - 1 :])
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return None
    for option in options:
        if option not in known:
            near = [f"{name}.{option}" for name, group in groups(cls).items() if option in _options(group)]
            near = near or get_close_matches(option, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            listed = ", ".join(known) or "none"
            contract = next((base for base in cls.__mro__ if "kind" in vars(base)), cls)
            others = sorted(
                other.__name__
                for other in subclasses(contract)
                if option in _options(other) and not (inspect.isabstract(other) or ABC in other.__bases__)
            )
            having = f"  {option} is an option of {', '.join(others)}" if others and not near else ""
            return f"{cls.__name__} has no option {option!r}.{hint}  options: {listed}{having}"
    return None


class _Required:
    """A class attribute that concrete subclasses must set; ABCMeta reads the flag, as it does of abstract methods."""

    __isabstractmethod__ = True


def required() -> Any:
    """Stands for a class attribute that concrete subclasses must set."""
    return _Required()


class Plugin:
    """Base of everything that the registry offers: solvers, dynamics, gradients, tasks and data.

    A plugin keeps the arguments that it was built with as plain data, with plugins inside them nested, so that it
    can be stored in a checkpoint or a configuration and built again. Nothing has to be done for this in a subclass.

    Raises:
        SettingError: A number among the arguments is inf or nan.
    """

    kind: ClassVar[str]
    remembered_spec: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        spec = {"class_path": import_path(cls), "init_args": _plain(_arguments(cls, args, kwargs))}
        _require_finite(spec["init_args"], cls.__name__, "")
        object.__setattr__(self, "remembered_spec", spec)
        return self

    @property
    def spec(self) -> dict[str, Any]:
        """`{"class_path": "package.Class", "init_args": {…}}`, nested, of str, numbers, bool, list and dict.

        Raises:
            PluginError: An argument was neither plain data nor a plugin.
        """
        _require_plain(self.remembered_spec["init_args"], type(self).__name__, "")
        return self.remembered_spec


def check_least(owner: Plugin, least: float, **options: float | Sequence[float] | None) -> None:
    """Refuses options that are too small.

    Args:
        owner: Whose options they are, for the message.
        least: The smallest value that makes sense.
        **options: By name; of a list each entry counts, and None is no value.

    Raises:
        SettingError: One is below, or nan.
    """
    for name, value in options.items():
        entries = [value] if isinstance(value, (int, float)) else list(value or ())
        if not all(entry >= least for entry in entries):
            came = entries if isinstance(value, Sequence) else value
            raise SettingError(f"{type(owner).__name__}: {name} must be at least {least:g}; got {came}")


def check_kind(name: str, value: object, kind: type, example: str) -> None:
    """Refuses what is of another kind, such as a class in place of its instance.

    Raises:
        SettingError: It is.
    """
    if not isinstance(value, kind):
        came = f"the class {value.__name__} (missing parentheses?)" if isinstance(value, type) else repr(value)
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise SettingError(f"{name} must be {article} {kind.__name__} instance such as {example}; got {came}")
