"""What a plugin is, in plain data: its meaning and its options, from its signature and its docstring."""

import contextlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from docstring_parser import DocstringStyle, parse

from odeflow.plugin.plugin import Plugin, constructor_options, groups, import_path


@dataclass(frozen=True)
class Option:
    """An option of a plugin.

    Attributes:
        name: Its name; `group.name` in a group of options.
        type: Its annotation, without the modules of classes.
        default: Its default, as Python code; None if it must be given.
        meaning: The text of the docstring.
        kinds: The kinds of plugins that it takes.
        choices: Its values, if the annotation lists them.
    """

    name: str
    type: str
    default: str | None
    meaning: str
    kinds: list[str] = field(default_factory=list[str])
    choices: list[Any] = field(default_factory=list[Any])


@dataclass(frozen=True)
class Description:
    """A plugin.

    Attributes:
        name: Its name on the command line.
        path: Its import path.
        doc: Its docstring without the section of arguments.
        options: Its options.
    """

    name: str
    path: str
    doc: str
    options: list[Option]

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]

    @classmethod
    def of(cls, plugin: type) -> Self:
        """Describes a class."""
        return cls(plugin.__name__, import_path(plugin), _without_arguments(plugin), list(_options(plugin)))

    @classmethod
    def of_foreign(cls, named: type, skip: int = 0) -> Self:
        """Describes a class that is no plugin, such as an optimizer of torch, by the beginnings of long texts.

        Args:
            named: The class.
            skip: Number of leading constructor parameters that are not options.
        """
        whole = cls.of(named)
        if named.__module__.startswith("odeflow"):
            return replace(whole, options=whole.options[skip:])
        options = [replace(each, meaning=_beginning(each.meaning, ". ")) for each in whole.options[skip:]]
        return replace(whole, doc=_beginning(whole.doc, "\n\n"), options=options)

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Self:
        """From plain data, as `dataclasses.asdict` makes them."""
        options = [Option(**each) for each in plain["options"]]
        return cls(plain["name"], plain["path"], plain["doc"], options)


def hints(cls: type) -> dict[str, Any]:
    """The types of a class's options by name; none if an annotation cannot be evaluated."""
    with contextlib.suppress(NameError):  # a name that is imported for type checkers alone
        return get_type_hints(cls.__init__)
    return {}


def parts(annotation: Any) -> Iterator[Any]:
    """A type and its arguments, recursively: `list[Solver] | None` contains `Solver`."""
    yield annotation
    if get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from parts(part)


def _beginning(text: str, end: str) -> str:
    """A text in reStructuredText up to some end, without its marks."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text.partition(end)[0]).replace("``", "`")


def _options(cls: type) -> Iterator[Option]:
    texts, types, inside = meanings(cls), hints(cls), groups(cls)
    for name, parameter in constructor_options(cls).items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in inside:
            for option in _options(inside[name]):
                given = getattr(parameter.default, option.name, None)  # the plugin's own default of the group
                plain = given is None or isinstance(given, (str, int, float, bool, list, tuple))
                default = repr(given) if plain else option.default
                yield replace(option, name=f"{name}.{option.name}", default=default)
            continue
        within = list(parts(types.get(name)))
        yield Option(
            name,
            re.sub(r"(?:\w+\.)+(\w+)", r"\1", inspect.formatannotation(parameter.annotation)),
            None if parameter.default is parameter.empty else repr(parameter.default),
            texts.get(name, ""),
            sorted({each.kind for each in within if isinstance(each, type) and "kind" in vars(each)}),
            [choice for each in within if get_origin(each) is Literal for choice in get_args(each)],
        )


def meanings(cls: type) -> dict[str, str]:
    """The texts of a class's options; a plugin that inherits options inherits their texts."""
    if issubclass(cls, Plugin) or groups(cls) or "__dataclass_fields__" in vars(cls):
        bases = [each for each in cls.__mro__ if issubclass(each, Plugin) or "__dataclass_fields__" in vars(each)]
        docs = [(base.__doc__, DocstringStyle.GOOGLE) for base in reversed(bases)]
    else:
        docs = [(doc, DocstringStyle.AUTO) for doc in (cls.__doc__, cls.__init__.__doc__)]
    found = [each for doc, style in docs for each in parse(inspect.cleandoc(doc or ""), style).params]
    return {each.arg_name: " ".join((each.description or "").split()) for each in found}


def _without_arguments(cls: type) -> str:
    """A docstring without its section "Args:"."""
    kept: list[str] = []
    inside = False
    for line in inspect.cleandoc(cls.__doc__ or "").splitlines():
        inside = line == "Args:" or (inside and (not line or line.startswith(" ")))
        kept += [] if inside else [line]
    return "\n".join(kept).strip()
