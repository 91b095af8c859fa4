"""Names of columns, classes and arrays in messages."""

from collections.abc import Sequence
from difflib import get_close_matches


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names, the first few of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def nearest(name: str, names: Sequence[str]) -> str:
    """A hint at the nearest of some names, a sentence after a space; "" if none is near."""
    lowered = {each.lower(): each for each in names}
    near = get_close_matches(name.lower(), lowered, n=1)
    return f" Did you mean {lowered[near[0]]!r}?" if near else ""


def amount(count: int, what: str) -> str:
    """A number of things, whose name in the plural ends with an s."""
    return f"{count:,} {what[:-1] if count == 1 else what}"
