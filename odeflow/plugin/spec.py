"""Plain data: the values that YAML, JSON and checkpoints can hold."""

from typing import Any, cast


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


def is_plain(value: object, levels: int = 50) -> bool:
    """Whether a value is plain data throughout, nested at most `levels` deep."""
    items, entries = sequence(value), mapping(value)
    if items is None and entries is None:
        return value is None or isinstance(value, (str, int, float))
    inner = items if entries is None else [*entries, *entries.values()]
    return levels > 0 and all(is_plain(each, levels - 1) for each in inner or ())


def shown(value: object, longest: int = 80) -> str:
    """A value as text for a message, truncated to `longest` characters."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
