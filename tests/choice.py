"""Which cases of a parametrised test run each time; the others are slow."""

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import combinations, product
from typing import Any

import pytest


def few(cases: Iterable[Any], quick: Collection[Any] | Callable[[Any], bool]) -> list[Any]:
    """All cases, of which those that are not quick are marked slow.

    Args:
        cases: The cases, each with one value or a tuple of values.
        quick: Those that run each time, or whether a case does.
    """
    chosen = quick if callable(quick) else lambda case: case in quick
    marked = [case if chosen(case) else _slow(case) for case in cases]
    assert any(not hasattr(case, "marks") for case in marked)
    return marked


def pairwise(*axes: Sequence[Any]) -> list[Any]:
    """The product of the axes; each time run as few rows as contain every two values of different axes."""
    rows = [*product(*(range(len(axis)) for axis in axes))]
    pairs = {row: {*combinations(enumerate(row), 2)} for row in rows}
    wanted, kept = set[Any]().union(*pairs.values()), set[Any]()
    while wanted:
        best = max(rows, key=lambda row: len(pairs[row] & wanted))
        wanted -= pairs[best]
        kept.add(best)
    cases = [(row, tuple(axis[place] for axis, place in zip(axes, row, strict=True))) for row in rows]
    return [case if row in kept else _slow(case) for row, case in cases]


def _slow(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
