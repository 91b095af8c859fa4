"""Names of columns, classes and arrays in messages."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import odeflow as of

UNNAMED = re.compile(r"Unnamed: \d+")
"""The name of a column that has none in the header, by its place from 0 on."""


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


def header_names(origin: object, header: Sequence[Any]) -> list[str]:
    """The names of columns, without blanks around them.

    Args:
        origin: Where they come from, for the message.
        header: What the header says.

    Raises:
        DataError: Two columns have one name.
    """
    names = ["" if name is None else str(name).strip(' "') for name in header]
    names = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        places = " and ".join(str(place + 1) for place, name in enumerate(names) if name == twice)
        raise of.DataError(f"{origin}: columns {places} have the same name, {twice!r}. Rename them in the header")
    return names
