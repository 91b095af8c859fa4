"""Plugin: an object that stores its constructor arguments as plain data."""

import inspect
import math
import operator
import sys
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from odeflow.errors import PluginError, SettingError
from odeflow.plugin.spec import class_spec, mapping, sequence

PLAIN = (str, int, float, bool, type(None))


class _Unstorable:
    """Placeholder in a spec for a value that plain data cannot express."""

    def __init__(self, value: object) -> None:
        self.text = repr(value)[:80]


def import_path(cls: type) -> str:
    """The import path of a class, `package.Class`, through the outermost package that exports it.

    A stored path therefore survives a move between files. If no package exports the class, it is `module.Class`.
    """
    parts = cls.__module__.split(".")
    homes = (".".join(parts[:length]) for length in range(1, len(parts)))
    exporting = (home for home in homes if getattr(sys.modules.get(home), cls.__qualname__, None) is cls)
    return f"{next(exporting, cls.__module__)}.{cls.__qualname__}"


@dataclass(frozen=True)
class OptionGroup:
    """Related options. A subclass is a frozen dataclass that documents them once for all plugins that take it.

    A plugin takes a group as one argument whose default is an instance. The group is stored as a mapping. On the
    command line each of its fields is an option: `--model.flow.t1 2`.

    Raises:
        SettingError: An option is unknown, or not one of the literals of its annotation.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        _check_choices(cls, _arguments(cls, args, kwargs))
        return super().__new__(cls)


def groups(cls: type) -> dict[str, type[OptionGroup]]:
    """The constructor arguments of a class that are option groups, by name."""
    defaults = {name: option.default for name, option in constructor_options(cls).items()}
    return {name: type(default) for name, default in defaults.items() if isinstance(default, OptionGroup)}


def _plain(value: object) -> Any:
    """`value` as plain data. A plugin becomes its spec; any other object becomes a marker that `spec` rejects."""
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
    """Rejects inf and nan: no option accepts them. Unbounded or unknown values are None."""
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingError(f"{owner}: {path} must be a finite number; got {value}")
    entries = mapping(value) or dict(enumerate(sequence(value) or ()))
    for key, item in entries.items():
        _require_finite(item, owner, f"{path}.{key}" if path else str(key))


@cache
def _choices(cls: type) -> dict[str, list[Any]]:
    """The values of each option whose annotation lists them, as `Literal["gru", "lstm"]` or `Literal[…] | None`."""
    found: dict[str, list[Any]] = {}
    try:
        hints = get_type_hints(cls.__init__)
    except NameError:  # annotations of names that are imported for type checkers alone
        return found
    for name, hint in hints.items():
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if all(kind is NoneType or get_origin(kind) is Literal for kind in kinds):
            found[name] = [choice for kind in kinds for choice in get_args(kind) or (None,)]
    return found


def _check_choices(cls: type, arguments: dict[str, Any]) -> None:
    """Rejects values that are not listed by the annotation of their option."""
    for name, choices in _choices(cls).items():
        if name in arguments and arguments[name] not in choices:
            *others, last = map(repr, choices)
            raise SettingError(f"{cls.__name__}: {name} must be {', '.join(others)} or {last}; got {arguments[name]!r}")


def _arguments(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The value of each parameter in `cls(*args, **kwargs)` by name, defaults included.

    Raises:
        SettingError: `kwargs` has a name that is not an option of the class.
    """
    problem = unknown_option(cls, kwargs)
    if problem is not None:
        raise SettingError(problem)
    signature = inspect.signature(cls.__init__)
    try:
        bound = signature.bind_partial(None, *args, **kwargs)
    except TypeError:  # the call is invalid; __init__ raises the clearer error
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
    """All direct and indirect subclasses of a class."""
    for subclass in cls.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def constructor_options(cls: type) -> dict[str, inspect.Parameter]:
    """The parameters of a class's constructor; none if a plugin inherits it, such as that of `nn.Module`."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    if owner is object or (issubclass(cls, Plugin) and not issubclass(owner, Plugin)):
        return {}
    return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])


def unknown_option(cls: type, options: Iterable[str], skip: int = 1) -> str | None:
    """The error message for options that a class does not have; None if it has all of them.

    Args:
        cls: The class.
        options: Names of the options.
        skip: Number of leading constructor parameters that are not options, `self` included.

    Returns:
        A message that names the first unknown option, the closest match, all known options, and the plugins of this
        kind that have the option.
    """
    known = dict(list(constructor_options(cls).items())[skip - 1 :])
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return None
    for option in options:
        if option not in known:
            near = [f"{name}.{option}" for name, group in groups(cls).items() if option in constructor_options(group)]
            near = near or get_close_matches(option, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            listed = ", ".join(known) or "none"
            contract = next((base for base in cls.__mro__ if "kind" in vars(base)), cls)
            others = sorted(
                other.__name__
                for other in subclasses(contract)
                if option in constructor_options(other) and not (inspect.isabstract(other) or ABC in other.__bases__)
            )
            having = f"  {option} is an option of {', '.join(others)}" if others and not near else ""
            return f"{cls.__name__} has no option {option!r}.{hint}  options: {listed}{having}"
    return None


class _Required:
    """A class attribute that concrete subclasses must set. ABCMeta reads the flag, as for abstract methods."""

    __isabstractmethod__ = True


def required() -> Any:
    """Declares a class attribute that concrete subclasses must set.

    A class that lacks one is a base class: it is no plugin, and making an instance is an error that names it.
    """
    return _Required()


@cache
def _uninitialised(cls: type) -> str | None:
    """The error for a class whose constructor does not call the one that it overrides; None if it calls it."""
    owners = [base for base in cls.__mro__ if "__init__" in vars(base)]
    own = inspect.unwrap(owners[0].__init__)
    written = getattr(own, "__module__", None) == owners[0].__module__ and inspect.isfunction(own)
    if not written or owners[1:2] in ([], [object]) or "__init__" in own.__code__.co_names:
        return None
    return f"{owners[0].__name__}.__init__ must call super().__init__() first, the constructor of {owners[1].__name__}"


class Plugin:
    """Base of all registered classes: solvers, dynamics, gradients, tasks and data.

    A plugin stores its constructor arguments as plain data, nested plugins included. It can therefore be saved in a
    checkpoint or a configuration and rebuilt. Subclasses need no code for this.

    Raises:
        SettingError: A numeric argument is inf or nan, or an argument is not one of the literals of its annotation.
        PluginError: The constructor of the class does not call `super().__init__()`.
    """

    kind: ClassVar[str]
    remembered_spec: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if problem := _uninitialised(cls):
            raise PluginError(problem)
        self = super().__new__(cls)
        arguments = _arguments(cls, args, kwargs)
        _check_choices(cls, arguments)
        spec = {"class_path": import_path(cls), "init_args": _plain(arguments)}
        _require_finite(spec["init_args"], cls.__name__, "")
        object.__setattr__(self, "remembered_spec", spec)
        return self

    @property
    def spec(self) -> dict[str, Any]:
        """`{"class_path": "package.Class", "init_args": {…}}`, nested; plain data only (str, number, bool, list, dict).

        Raises:
            PluginError: An argument is neither plain data nor a plugin.
        """
        _require_plain(self.remembered_spec["init_args"], type(self).__name__, "")
        return self.remembered_spec


def expression(plugin: Plugin) -> str:
    """The call that makes a plugin, without the options that have their default, as `Dopri5(rtol=0.001)`."""
    return _call(type(plugin), plugin.remembered_spec["init_args"])


def _call(cls: type, arguments: Mapping[str, Any]) -> str:
    defaults = {name: _plain(option.default) for name, option in constructor_options(cls).items()}
    changed = [f"{name}={_text(value)}" for name, value in arguments.items() if value != defaults.get(name, cls)]
    return f"{cls.__name__}({', '.join(changed)})"


def _text(value: object) -> str:
    spec, items = class_spec(value), sequence(value)
    if spec is not None:
        cls = next(cls for cls in subclasses(Plugin) if import_path(cls) == spec["class_path"])
        return _call(cls, spec["init_args"])
    if isinstance(value, _Unstorable):
        return value.text
    return repr(value) if items is None else f"[{', '.join(map(_text, items))}]"


def check_least(owner: object, least: float, **options: float | Sequence[float] | None) -> None:
    """Rejects options below a minimum.

    Args:
        owner: What has the options, for the message.
        least: The smallest valid value.
        **options: The values by name. Every entry of a list is checked; None is skipped.

    Raises:
        SettingError: A value is below `least`, or nan.
    """
    _check_entries(owner, options, lambda value: value >= least, f"must be at least {least:g}")


def check_range(owner: object, interval: str, **options: float | Sequence[float] | None) -> None:
    """Rejects options outside an interval.

    Args:
        owner: What has the options, for the message.
        interval: The valid values, such as "[0, 1)" or "(0, inf)".
        **options: As of `check_least`.

    Raises:
        SettingError: A value is outside, or nan.
    """
    low, high = map(float, interval[1:-1].split(","))
    above = operator.ge if interval[0] == "[" else operator.gt
    below = operator.le if interval[-1] == "]" else operator.lt
    _check_entries(owner, options, lambda value: above(value, low) and below(value, high), f"must lie in {interval}")


def _check_entries(
    owner: object, options: Mapping[str, float | Sequence[float] | None], valid: Callable[[float], bool], wanted: str
) -> None:
    for name, value in options.items():
        entries = [value] if isinstance(value, (int, float)) else list(value or ())
        if not all(valid(entry) for entry in entries):
            came = entries if isinstance(value, Sequence) else value
            raise SettingError(f"{type(owner).__name__}: {name} {wanted}; got {came}")


def check_kind(name: str, value: object, kind: type, example: str) -> None:
    """Rejects values of the wrong type, such as a class instead of an instance.

    Raises:
        SettingError: `value` is not an instance of `kind`.
    """
    if not isinstance(value, kind):
        came = f"the class {value.__name__} (missing parentheses?)" if isinstance(value, type) else repr(value)
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise SettingError(f"{name} must be {article} {kind.__name__} instance such as {example}; got {came}")
