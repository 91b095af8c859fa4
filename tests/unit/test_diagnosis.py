"""Laws of diagnose: its numbers are those of the equation, its words follow from them."""

import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow_dynamics import MLP
from odeflow_solvers import RK4, Dopri5, TorchDiffEq


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
    assert "Accuracy chooses the steps" in str(found)


def test_enough_is_the_loosest_tolerance_that_keeps_the_error() -> None:
    """Solving at it, the error is below what is wanted; a tenfold looser tolerance was not enough."""
    torch.manual_seed(0)
    flow = of.Flow(MLP(2).double(), Dopri5(1e-2, 1e-2), t1=5.0)
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


def test_a_stiff_problem_is_called_so() -> None:
    """Where stability bounds the steps the report names implicit solvers, and that the way back is unstable."""
    flow, y0 = of.Flow(Relaxing(300.0).double(), Dopri5(1e-3, 1e-3)), torch.ones(1, 2, dtype=torch.float64)
    found = of.diagnose(flow, y0)
    assert found.stiffness is not None
    assert found.stiffness > 2
    with torch.no_grad():
        assert found.stiffness == flow.trajectory(y0, [0.0, 1.0]).stats.stiffness
    assert "the problem is stiff. Use an implicit solver" in str(found)
    assert not found.reconstruction < 1e-3
    assert "Adjoint reconstructs the state, and is wrong here" in str(found)


def test_equal_steps_tuples_and_hidden_steps() -> None:
    """Solvers of equal or hidden steps and tuple states are diagnosed as far as that goes."""
    torch.manual_seed(0)
    equal = of.diagnose(of.Flow(MLP(2), RK4(num_steps=4)), torch.randn(3, 2))
    assert (equal.errors, equal.accepted) == ({}, 4)
    assert "Steps are of equal size" in str(
        of.diagnose(of.Flow(MLP(2), RK4(num_steps=1)), torch.randn(3, 2), wanted=1e-12)
    )
    hidden = of.diagnose(of.Flow(MLP(2), TorchDiffEq("dopri5", 1e-5, 1e-5)), torch.randn(3, 2))
    assert hidden.stiffness is None
    assert "the solver hides its steps" in str(hidden)
    assert hidden.gradients["InterpolatedAdjoint"].error is None
    assert "needs dense output" in str(hidden)

    class Pair(torch.nn.Module):
        def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return y[1], -4 * y[0]

    found = of.diagnose(of.Flow(Pair(), Dopri5()), (torch.ones(3), torch.zeros(3)))
    assert found.spectral_radius == pytest.approx(2.0, rel=0.2)


def test_what_is_wanted_must_be_positive() -> None:
    """A relative error of zero cannot be had."""
    with pytest.raises(of.SettingError, match="wanted must be positive"):
        of.diagnose(of.Flow(MLP(2), RK4(num_steps=4)), torch.randn(3, 2), wanted=0)
