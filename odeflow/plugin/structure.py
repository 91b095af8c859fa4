"""Structure: whether data from a file are of a declared type."""

from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    NotRequired,
    Required,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from odeflow.plugin.spec import mapping, sequence, shown

NOUNS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
    NoneType: "nothing",
}
"""What types are called in messages."""


@dataclass(frozen=True)
class Only:
    """Restricts a type, as `Annotated[int, Only(lambda n: n >= 0, "a count")]`.

    Attributes:
        allows: Value of the type ↦ whether it is allowed.
        noun: What such values are called.
    """

    allows: Callable[[Any], bool]
    noun: str


def mismatch(value: object, declared: Any, place: str = "") -> str | None:
    """What is wrong with the first part of a value that is not of its declared type; None if all are.

    Args:
        value: Data from a file.
        declared: `Any`, a class, a union, `list[…]`, `dict[…]`, a `TypedDict` or an `Annotated` type with `Only`.
            Lists may be tuples, and whole numbers are numbers, but truth values are not. Mappings may have keys that a
            `TypedDict` does not declare.
        place: The place of the value, for the message.
    """
    origin, inner = get_origin(declared), get_args(declared)
    if origin in (NotRequired, Required):
        return mismatch(value, inner[0], place)
    if origin is Annotated:
        wrong = mismatch(value, inner[0], place)
        unlike = (each for each in inner[1:] if wrong is None and not each.allows(value))
        return next((_told(place, each.noun, value) for each in unlike), wrong)
    if declared is Any:
        return None
    if origin in (Union, UnionType):
        fits = any(mismatch(value, each) is None for each in inner)
        return None if fits else _told(place, " or ".join(map(_noun, inner)), value)
    entries = mapping(value)
    if is_typeddict(declared):
        return _told(place, "a mapping", value) if entries is None else _in_entries(entries, declared, place)
    if origin is dict and entries is not None:
        parts = [(key, inner[0], f"a key of {place or 'the file'}") for key in entries]
        parts += [(each, inner[1], _inside(place, key)) for key, each in entries.items()]
    elif origin is list and sequence(value) is not None:
        parts = [(each, inner[0], f"{place}[{number}]") for number, each in enumerate(sequence(value) or ())]
    else:
        return None if _is(value, origin or declared) else _told(place, _noun(declared), value)
    return next((wrong for part in parts if (wrong := mismatch(*part))), None)


def like(example: object) -> Any:
    """The type of data like an example: entries of its names, if they are there, of the types that they have in it."""
    entries: dict[Any, Any] | None = mapping(example)
    if entries is not None and all(isinstance(key, str) for key in entries):
        return TypedDict("Like", {key: like(each) for key, each in entries.items()}, total=False)  # pyright: ignore
    known = bool if isinstance(example, bool) else float if isinstance(example, (int, float)) else type(example)
    return known if known in NOUNS and example is not None else Any


def _in_entries(entries: dict[str, Any], declared: Any, place: str) -> str | None:
    """What is wrong with the first entry of a mapping that is not of its declared type, or absent."""
    absent = sorted(declared.__required_keys__ - entries.keys())
    if absent:
        return f"{place or 'it'} has no {absent[0]!r}"
    types = get_type_hints(declared, include_extras=True)
    known = ((each, types[key], _inside(place, key)) for key, each in entries.items() if key in types)
    return next((wrong for part in known if (wrong := mismatch(*part))), None)


def _is(value: object, cls: Any) -> bool:
    if isinstance(value, bool):
        return cls in (bool, object)
    return isinstance(value, (int, float) if cls is float else (list, tuple) if cls is list else cls)


def _inside(place: str, key: object) -> str:
    name = shown(key, 40) if not isinstance(key, str) else key if len(key) <= 50 else f"{key[:49]}…"
    return f"{place}/{name}" if place else name


def _noun(declared: Any) -> str:
    cls = get_origin(declared) or declared
    return "a mapping" if is_typeddict(cls) else NOUNS.get(cls, f"a {getattr(cls, '__name__', cls)}".lower())


def _told(place: str, noun: str, value: object) -> str:
    return f"{place or 'it'} must be {noun}; got {shown(value, 60)}"
