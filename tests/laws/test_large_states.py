"""Laws of large states: sums in memory that is used again give what fresh memory gives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.engine.step.large import LARGE, LargeStages, stages_of
from odeflow_solvers import RK4, Dopri5, Dopri8

D = torch.float64
SIZE = LARGE + 3


def state() -> Tensor:
    return torch.linspace(-1, 1, SIZE, dtype=D)


class Field:
    """A nonlinear field of time and state, whose value is made in one of several ways."""

    def __init__(self, way: str) -> None:
        self.way, self.memory, self.seen = way, torch.empty(SIZE, dtype=D), list[tuple[Tensor, Tensor]]()

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        value = torch.sin(y) * torch.cos(t) - y
        if self.way == "keeps its inputs":
            self.seen.append((y, y.clone()))
        elif self.way == "keeps views of them":
            self.seen.append((y.view(1, -1), y.clone()))
        elif self.way == "keeps its values":
            self.seen.append((value, value.clone()))
        elif self.way == "returns the same tensor":
            value = self.memory.copy_(value)
        elif self.way == "returns the same memory":
            value = self.memory.copy_(value).detach()
        elif self.way == "returns its input":
            value = y
        elif self.way == "returns a view of its input":
            value = y.view(-1)
        return value


WAYS = [
    "makes a new one",
    "keeps its inputs",
    "keeps views of them",
    "keeps its values",
    "returns the same tensor",
    "returns the same memory",
    "returns its input",
    "returns a view of its input",
]


@pytest.mark.parametrize("solver", [Dopri5(1e-6, 1e-6), Dopri8(1e-6, 1e-6), RK4(num_steps=5)], ids=repr)
@pytest.mark.parametrize("way", WAYS)
def test_reused_memory_is_never_somebody_elses(solver: of.Solver, way: str) -> None:
    """However a field makes its values, and whatever it keeps, the solution is that of two small parts."""
    field, halves = Field(way), state().split(SIZE // 2 + 1)
    t = torch.tensor([0.0, 0.3, 1.0], dtype=D)

    def plain(t: Tensor, y: Tensor) -> Tensor:
        return y.clone() if "input" in way and "returns" in way else torch.sin(y) * torch.cos(t) - y

    with torch.no_grad():
        assert isinstance(stages_of(Dopri5.tableau, field, state()), LargeStages)
        solution = of.solve(field, state(), t, solver=solver, dense=True)
        tight = [of.solve(plain, half, t, solver=Dopri8(1e-10, 1e-10)).y for half in halves]
        inside = solution(torch.tensor([0.15, 0.8], dtype=D))
    assert torch.allclose(solution.y, torch.cat(tight, 1), rtol=0, atol=1e-3 if isinstance(solver, RK4) else 1e-5)
    assert all(torch.equal(kept.view(-1), copied) for kept, copied in field.seen)
    assert inside.shape == (2, SIZE)


@pytest.mark.parametrize(
    "solver", [Dopri5(1e-6, 1e-6), Dopri8(1e-6, 1e-6, controller="PI"), RK4(num_steps=5)], ids=repr
)
def test_steps_are_those_with_autograd(solver: of.Solver) -> None:
    """Values, steps and stiffness of a large state without autograd are those with it, and the gradient is Backprop's."""
    y0, t = state().requires_grad_(), [0.0, 0.3, 3.0]

    def field(t: Tensor, y: Tensor) -> Tensor:
        return 5 * torch.sin(y) * torch.cos(t) - 20 * y

    truth = of.solve(field, y0, t, solver=solver, params=(), gradient=of.Backprop())
    found = of.solve(field, y0, t, solver=solver, params=(), gradient=of.Checkpointed())
    assert torch.allclose(found.y, truth.y, rtol=0, atol=1e-12)
    assert (found.stats.accepted, found.stats.rejected) == (truth.stats.accepted, truth.stats.rejected)
    assert found.stats.stiffness == (truth.stats.stiffness and pytest.approx(truth.stats.stiffness, rel=1e-6))
    gradients = [torch.autograd.grad(each.y[1:].square().sum(), y0)[0] for each in (found, truth)]
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [lambda: Dopri5(1e-6, 1e-6, per_sample=True), lambda: Dopri5(1e-6, 1e-6)])
def test_samples_that_finish_leave_a_small_state(make: Callable[[], of.Solver]) -> None:
    """A large batch of which few samples go on gives what the samples give alone."""
    y0 = state()[: 4 * (SIZE // 4)].view(4, -1)
    rates = torch.tensor([0.1, 0.2, 0.3, 30.0], dtype=D)[:, None]
    scaled = torch.cat((rates, y0), 1)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.cat((0 * y[:, :1], -y[:, :1] * y[:, 1:]), 1)

    with torch.no_grad():
        y = of.solve(field, scaled, [0.0, 1.0], solver=make()).y[-1, :, 1:]
    assert torch.allclose(y, y0 * torch.exp(-rates), rtol=1e-4, atol=1e-5)
