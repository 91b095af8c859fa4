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


def differences(then: object, now: object, place: str) -> list[str]:
    """The options of two specs with other classes or values, as "model.dynamics is MLP in the file, Linear here".

    Args:
        then: The spec in a file.
        now: Another one; options that it does not give are not compared.
        place: The option that they are values of.
    """
    one = class_spec(then)
    other = class_spec(now) if one is None else named_spec(now)
    if one is not None and other is not None and _name(one) == _name(other):
        then, now = one.get("init_args", {}), other.get("init_args", {})
    elif one is not None or other is not None:
        return [f"{place} is {_name(one or then)} in the file, {_name(other or now)} here"]
    before, after = mapping(then), mapping(now)
    if before is not None and after is not None:
        both = [(key, before[key], after[key]) for key in before if key in after]
        return [each for key, one, other in both for each in differences(one, other, f"{place}.{key}")]
    same = then == now if sequence(then) is None else sequence(then) == sequence(now)
    return [] if same else [f"{place} is {shown(then, 40)} in the file, {shown(now, 40)} here"]


def _name(value: object) -> str:
    """The bare class name of a spec; any other value as text."""
    return shown(value, 40) if class_spec(value) is None else path_of(value).rpartition(".")[2]


def shown(value: object, longest: int = 80) -> str:
    """A value as text for a message, truncated to `longest` characters."""
    # reprlib for what may have more values than can be written; tensors take several lines
    text = repr(value) if is_plain(value) else " ".join(reprlib.repr(value).split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
