"""Laws of reads: a solve waits for its device as rarely as its decisions allow."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.engine.loop import compiled
from odeflow_dynamics import MLP
from odeflow_solvers import RK4, AdamsBashforthMoulton, Dopri5, Euler, Kvaerno5, Rodas4

READING = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")
"""The methods by which Python reads the numbers of a tensor, each of which waits for a GPU."""


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[of.Solver], tuple[int, int]]:
    """A solver ↦ (numbers read, attempted steps) of a solve and its gradient."""
    count = 0

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            return method(tensor, *args, **kwargs)

        return read

    for name in READING:
        monkeypatch.setattr(Tensor, name, counted(getattr(Tensor, name)))

    def solved(solver: of.Solver) -> tuple[int, int]:
        torch.manual_seed(0)
        field, y0 = MLP(2, hidden=(16,)).double(), torch.randn(20, 2, dtype=torch.float64, requires_grad=True)
        before = count
        solution = of.solve(field, y0, (0.0, 10.0), solver=solver)
        solution.y[-1].sum().backward()
        return count - before, solution.stats.accepted + solution.stats.rejected

    return solved


Reads = Callable[[of.Solver], tuple[int, int]]


@pytest.mark.parametrize("solver", [Euler, RK4, AdamsBashforthMoulton])
def test_fixed_steps_read_nothing(reads: Reads, solver: type[of.Solver]) -> None:
    """Ten times as many steps read as many numbers."""
    assert reads(solver(num_steps=50))[0] == reads(solver(num_steps=5))[0]


@pytest.mark.parametrize(
    ("solver", "options", "bound"),
    [
        (Dopri5, {}, 1.11),  # the error, and h|λ| in each tenth step
        (Dopri5, {"per_sample": True}, 1.11),
        (Rodas4, {}, 3.0),
        (Kvaerno5, {}, 50),
    ],
)
def test_adaptive_steps_read_their_error(
    reads: Reads, solver: type[of.Solver], options: dict[str, Any], bound: float
) -> None:
    """A further attempt reads little more than the norm of its error."""
    few, less = reads(solver(1e-4, 1e-4, **options))
    many, more = reads(solver(1e-9, 1e-9, **options))
    assert more > less + 9
    assert many - few <= bound * (more - less) + 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's own, while it traces
def test_replayed_solves_read_their_end(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled solve on a GPU launches the attempts of the solve before, and then reads whether it has ended."""
    monkeypatch.setattr(compiled, "replays", lambda device: True)
    monkeypatch.setattr(compiled, "_compiled", lambda function, inputs: compiled.traced(function, *inputs))
    counts: list[int] = []
    for rtol in (1e-4, 1e-9):
        solver = Dopri5(rtol, rtol, compile=True)
        reads(solver)  # makes the program and counts the attempts
        counts.append(reads(solver)[0])
    assert counts[0] == counts[1]
