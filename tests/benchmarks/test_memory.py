"""Solves leave nothing in memory, even without Python's garbage collector: they make no cycles of references."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
FEATURES = (
    *("without a gradient", "Backprop", "Checkpointed", "Adjoint", "InterpolatedAdjoint", "Reversible"),
    *("dense output", "events", "restarts", "per sample", "per sample, events", "implicit", "Rosenbrock"),
    *("stochastic", "failed solve"),
)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark, imported as when it is run."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield __import__("memory")
    torch.set_num_threads(threads)
    sys.modules.pop("memory", None)


def test_every_feature_is_tried(memory: ModuleType) -> None:
    """All features of the benchmark are tried here but compiled solves, whose compilation takes a minute."""
    assert {*memory.FEATURES} == {*FEATURES, "compiled"}


@pytest.mark.parametrize("name", FEATURES)
def test_solves_leave_nothing(memory: ModuleType, name: str) -> None:
    """The collector being off, ten solves and their gradients leave neither tensors nor other objects."""
    before, after = memory.counted(memory.FEATURES[name](), 3, 10)
    assert after.tensors == before.tensors
    assert after.objects - before.objects < 10  # a cycle in each would be more


def test_cycles_are_seen(memory: ModuleType) -> None:
    """An action that leaves a cycle of references each time is counted."""

    def leave() -> None:
        cycle: list[object] = [torch.zeros(1)]
        cycle.append(cycle)

    before, after = memory.counted(leave, 5, 20)
    assert after.tensors - before.tensors == 20
    assert after.objects - before.objects >= 40
