"""The benchmarks of stochastic equations run, and compare the same equation."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The script of this name, imported as when it is run."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    threads = torch.get_num_threads()
    yield __import__(request.param)
    torch.set_num_threads(threads)
    sys.modules.pop(request.param, None)


@pytest.mark.parametrize("script", ["sde"], indirect=True)
@pytest.mark.parametrize("divergence", [False, True])
def test_a_table_has_a_row_for_each_engine(script: ModuleType, divergence: bool) -> None:
    """Every engine solves the equation, with and without its gradient, and has a row."""
    table = script.table(2, 3, divergence, 1)
    assert len(table) >= 2 + 3
    assert all(line.count("|") == 6 for line in table)


@pytest.mark.parametrize("script", ["marginals"], indirect=True)
def test_wasserstein(script: ModuleType) -> None:
    """W₁ of a shifted sample is the shift."""
    x = torch.randn(50, 4, 3)
    torch.testing.assert_close(script.wasserstein(x, x[torch.randperm(50)] + 0.3), torch.full((4, 3), 0.3))
