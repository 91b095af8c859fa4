"""Plain data: the values that YAML, JSON and checkpoints can hold."""

import reprlib
from typing import Any, cast

DEEPEST, MOST = 50, 1_000_000
"""Maximum nesting depth and number of values of plain data from a file."""


def mapping(value: object) -> dict[str, Any] | None:
    """The value if it is a mapping, else None."""
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def sequence(value: object) -> list[Any] | None:
    """The value as a list if it is a list or tuple, else None."""
    return list(cast(list[Any], value)) if isinstance(value, (list, tuple)) else None


def class_spec(value: object) -> dict[str, Any] | None:
    """The value if it is a class spec, `{"class_path": …, "init_args": …}`, else None."""
    found = mapping(value)
    return found if found is not None and "class_path" in found else None


def named_spec(value: object) -> dict[str, Any] | None:
    """The class spec of a value, also if it is the bare name of a class, else None."""
    return {"class_path": value} if isinstance(value, str) else class_spec(value)


def path_of(value: object) -> str:
    """The class path of a class spec or of a bare name."""
    return str((class_spec(value) or {"class_path": value})["class_path"])


def is_plain(value: object) -> bool:
    """Whether a value is plain data throughout, nested at most `DEEPEST` levels, of at most `MOST` values.

    What stands at several places counts at each: ten lists in each other, each ten times the next one, take little
    memory and have 10¹⁰ values.
    """
    waiting, count = [(value, 0)], 0
    while waiting:
        each, level = waiting.pop()
        items, entries = sequence(each), mapping(each)
        if items is None and entries is None:
            if not (each is None or isinstance(each, (str, int, float))):
                return False
            continue
        inner = items if entries is None else [*entries, *entries.values()]
        waiting += [(one, level + 1) for one in inner or ()]
        count += len(inner or ())
        if level >= DEEPEST or count > MOST:
            return False
    return True


def shown(value: object, longest: int = 80) -> str:
    """A value as text for a message, truncated to `longest` characters."""
    text = repr(value) if is_plain(value) else reprlib.repr(value)  # of what may have more values than can be written
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
