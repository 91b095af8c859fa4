"""Laws of diagnose: its numbers are those of the equation, its words follow from them."""

import inspect
import math

import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.testing import PARTICLE, SPIRAL
from odeflow_dynamics import MLP
from odeflow_solvers import (
    RK4,
    AdamsBashforth,
    CashKarp45,
    Dopri5,
    Dopri8,
    Euler,
    Kvaerno5,
    Rodas4,
    TorchDiffEq,
    Trapezoid,
    Yoshida4,
)


class Relaxing(of.Dynamics):
    """dy/dt = −λ (y − cos t)."""

    width = 2

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(rate))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.rate * (y - torch.cos(t))


def test_numbers_are_those_of_the_equation() -> None:
    """The spectral radius is λ; evaluations and steps are the solver's own; the flow is left as it was."""
    flow = of.Flow(Relaxing(3.0), Dopri5(1e-4, 1e-6))
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    found = of.diagnose(flow, torch.ones(4, 2))
    with torch.no_grad():
        stats = flow.trajectory(torch.ones(4, 2), [0.0, 1.0]).stats
    assert (found.nfe, found.accepted, found.rejected) == (stats.nfe_forward, stats.accepted, stats.rejected)
    assert found.spectral_radius == pytest.approx(3.0, rel=1e-3)
    assert found.stiffness == pytest.approx(3.0 * stats.largest_step, rel=1e-3)
    assert found.error < 1e-3
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    assert flow.training
    assert found.gradients["Checkpointed"].error == pytest.approx(0, abs=1e-12)
    assert "Accuracy limits the steps" in str(found)


def rough(cls: type[of.Solver]) -> of.Solver:
    """The solver with few steps or loose tolerances."""
    options = inspect.signature(cls).parameters
    if "rtol" in options:
        return cls(rtol=1e-2, atol=1e-2)
    return cls(order=3, num_steps=16) if "order" in options else cls(num_steps=16)


OF_EACH_FAMILY = [RK4, CashKarp45, Trapezoid, Kvaerno5, Rodas4, AdamsBashforth, Yoshida4]
OTHERS = [Dopri5(1e-3, 1e-3, per_sample=True), Dopri8(1e-6, 1e-6), TorchDiffEq("rk4", options={"step_size": 0.2})]


@pytest.mark.parametrize("solver", [*map(rough, OF_EACH_FAMILY), *OTHERS], ids=lambda solver: type(solver).__name__)
def test_the_error_is_the_true_one(solver: of.Solver) -> None:
    """The error that is reported of a solver is that against the known solution, within a factor of 3."""
    problem = PARTICLE if isinstance(solver, of.Symplectic) else SPIRAL
    flow = of.Flow(problem.field, solver, options=of.FlowOptions(t0=problem.t0, t1=problem.t1))
    y0, truth = problem.solution(problem.t0), problem.solution(problem.t1)
    with torch.no_grad():
        error = float((flow(y0) - truth).norm() / truth.norm())
    assert error > 1e-9
    assert error / 3 < of.diagnose(flow, y0).error < 3 * error


def test_what_cannot_be_solved_is_reported() -> None:
    """Tolerances at which the solve fails, and a backward integration that does, are lines of the report and end nothing."""
    solver = CashKarp45(1e-2, 1e-2, max_steps=40)
    flow = of.Flow(SPIRAL.field, solver, options=of.FlowOptions(t0=SPIRAL.t0, t1=SPIRAL.t1))
    found = of.diagnose(flow, SPIRAL.solution(SPIRAL.t0))
    assert found.errors[1e-9] == (math.inf, 0)
    assert "rtol 1e-09: the solve fails" in str(found)
    steep = of.Flow(SPIRAL.field, Euler(num_steps=16), options=of.FlowOptions(t0=SPIRAL.t0, t1=SPIRAL.t1))
    assert of.diagnose(steep, SPIRAL.solution(SPIRAL.t0)).reconstruction == math.inf


def test_enough_is_the_loosest_tolerance_that_keeps_the_error() -> None:
    """Solving at it, the error is below what is wanted; a tenfold looser tolerance was not enough."""
    torch.manual_seed(0)
    flow = of.Flow(MLP(2).double(), Dopri5(1e-2, 1e-2), options=of.FlowOptions(t1=5.0))
    found = of.diagnose(flow, torch.randn(8, 2, dtype=torch.float64), wanted=1e-6)
    assert found.enough is not None
    errors = {rtol: error for rtol, (error, _) in found.errors.items()}
    assert errors[found.enough] < 1e-6
    assert all(error < 1e-6 for rtol, error in errors.items() if rtol <= found.enough)
    looser = [error for rtol, error in errors.items() if rtol > found.enough]
    assert looser
    assert looser[-1] >= 1e-6
    assert found.error > 1e-6
    assert f"Tighten the tolerance: rtol = {found.enough:.0e} is enough" in str(found)


@pytest.mark.parametrize("options", [{}, {"per_sample": True}])
def test_rounding_is_not_stiffness(options: dict[str, bool]) -> None:
    """Where steps are so small that the stages differ by rounding alone, nothing is said of the eigenvalues."""
    y0 = torch.tensor([[0.0, 1.0]])
    turn = lambda t, y: torch.stack([y[:, 1], -y[:, 0]], 1)  # noqa: E731
    small = of.solve(turn, y0, [0.0, 0.1], solver=Dopri5(1e-4, 1e-4, max_step=1e-3, **options), params=())
    assert small.stats.stiffness is None
    large = of.solve(turn, y0, [0.0, 5.0], solver=Dopri5(1e-5, 1e-5, **options), params=()).stats
    assert large.stiffness == pytest.approx(5 / large.accepted, rel=0.2)


def test_a_stiff_problem_is_called_so() -> None:
    """Where stability bounds the steps the report names implicit solvers, and that backward integration is unstable."""
    flow, y0 = of.Flow(Relaxing(300.0).double(), Dopri5(1e-3, 1e-3)), torch.ones(1, 2, dtype=torch.float64)
    found = of.diagnose(flow, y0)
    assert found.stiffness is not None
    assert found.stiffness > 2
    with torch.no_grad():
        assert found.stiffness == flow.trajectory(y0, [0.0, 1.0]).stats.stiffness
    assert "the problem is stiff. Use an implicit solver" in str(found)
    assert not found.reconstruction < 1e-3
    assert "Backward integration is unstable" in str(found)


def test_implicit_solvers_are_not_told_to_be_implicit() -> None:
    """Of an implicit solver's steps nothing is said of stability, which does not bound them."""
    found = of.diagnose(of.Flow(Relaxing(300.0).double(), Trapezoid(num_steps=4)), torch.ones(1, 2).double())
    assert found.stiffness == pytest.approx(75, rel=1e-2)
    assert "stability" not in str(found).lower()


def test_solvers_outside_of_autograd() -> None:
    """The gradients of scipy's methods are judged too, against Backprop through another solver."""
    torch.manual_seed(0)
    solver = TorchDiffEq("scipy_solver", 1e-7, 1e-7, options={"solver": "RK45"})
    found = of.diagnose(of.Flow(MLP(2), solver), torch.randn(3, 2))
    assert found.gradients["Adjoint"].error == pytest.approx(0, abs=1e-5)
    assert "scipy computes outside autograd" in found.gradients["Checkpointed"].refusal


def test_equal_steps_tuples_and_hidden_steps() -> None:
    """Solvers of equal or hidden steps and tuple states are diagnosed as far as that goes."""
    torch.manual_seed(0)
    equal = of.diagnose(of.Flow(MLP(2), RK4(num_steps=4)), torch.randn(3, 2))
    assert (equal.errors, equal.accepted) == ({}, 4)
    assert "The step size is fixed: halve it" in str(
        of.diagnose(of.Flow(MLP(2), RK4(num_steps=1)), torch.randn(3, 2), wanted=1e-12)
    )
    hidden = of.diagnose(of.Flow(MLP(2), TorchDiffEq("dopri5", 1e-5, 1e-5)), torch.randn(3, 2))
    assert hidden.stiffness is None
    assert "a black-box solver" in str(hidden)
    assert hidden.gradients["InterpolatedAdjoint"].error is None
    assert "does not support black-box solvers (got TorchDiffEq)" in str(hidden)

    class Pair(torch.nn.Module):
        def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return y[1], -4 * y[0]

    found = of.diagnose(of.Flow(Pair(), Dopri5()), (torch.ones(3), torch.zeros(3)))
    assert found.spectral_radius == pytest.approx(2.0, rel=0.2)


def test_what_is_wanted_must_be_positive() -> None:
    """A relative error of zero cannot be had."""
    with pytest.raises(of.SettingError, match="wanted must be positive"):
        of.diagnose(of.Flow(MLP(2), RK4(num_steps=4)), torch.randn(3, 2), wanted=0)


def test_dynamics_of_one_precision_are_told() -> None:
    """Dynamics that work in float32 only cannot be compared with a solution in float64, and the error says so."""

    class Single(of.Dynamics):
        width = 2

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y @ torch.eye(2)

    with pytest.raises(of.SolveError, match="the dynamics failed in float64: "):
        of.diagnose(of.Flow(Single(), Dopri5()), torch.ones(1, 2))
