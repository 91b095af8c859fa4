"""The benchmark of several processes computes what it says."""

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, imported as when it is run."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield __import__("processes")
    for name in ("processes", "compare", "engines", "problems"):
        sys.modules.pop(name, None)


def test_slowest_is_the_mean_of_the_largest(processes: ModuleType) -> None:
    """Of all draws with replacement, here counted one by one; of a single process it is the mean, of very many the maximum."""
    numbers = [3, 1, 4, 1, 5]
    for count in (1, 2, 3):
        draws = [max(each) for each in product(numbers, repeat=count)]
        assert processes.slowest(numbers, count) == pytest.approx(sum(draws) / len(draws))
    assert processes.slowest(numbers, 10_000) == pytest.approx(5)


def test_an_all_reduce_takes_the_faster_way(processes: ModuleType) -> None:
    """Small gradients take a tree, whose latency grows as log R; large ones a ring, of twice their size in all."""
    small, more = (processes.network(0.0, count, 25.0, 5.0) for count in (8, 64))
    assert (small, more) == pytest.approx((30e-6, 60e-6))
    assert processes.network(1e4, 2, 25.0, 0.0) == pytest.approx(1e4 / 25e3)
