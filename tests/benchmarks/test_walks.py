"""`benchmarks/walks.py`: forecasts of walks from other walks."""

import importlib
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("walks")


def wave(start: int, length: int = 300, period: int = 100) -> Tensor:
    """(length, 2), a wave that begins at a frame."""
    angle = 2 * math.pi * (start + torch.arange(length)) / period
    return torch.stack([angle.sin(), angle.cos()], dim=1)


def test_a_walk_goes_on_by_its_period(script: ModuleType) -> None:
    """Beyond its end a wave is the same wave."""
    assert script.period(wave(0)) in (100, 200)
    torch.testing.assert_close(script.continued(wave(0), 600), wave(0, 600), atol=1e-4, rtol=0)


def test_stretches_begin_anywhere(script: ModuleType) -> None:
    """A wave of any phase is forecast by stretches of one other wave, which as a whole is of another phase."""
    part, walks = wave(37)[None], wave(0)[None]
    assert script.error(script.stretches(part, walks, 3), part, 3) < 1e-2
    assert script.error(walks, part, 3) > 0.5


def test_the_published_walks(script: ModuleType, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The documented errors of the test walks."""
    script.main([str(shared / "data/mocap")])
    assert "test: nearest walk 23.08, nearest stretches 8.40" in capsys.readouterr().out
