"""Laws of dense output: the solution at any time, of every registered solver that shows its steps."""

import math

import pytest
import torch
from torch import Tensor

import odeflow as of
from equations import riccati
from odeflow.engine.tape import UNOBSERVED
from odeflow.plugin.registry import look_up, plugins
from odeflow.testing.subject import stepping
from odeflow_dynamics import MLP
from odeflow_solvers import RK4, AdamsBashforth, Dopri5, Euler, Kvaerno5, Rodas4, TorchDiffEq

D = torch.float64
EXPLICIT = [name for name, cls in plugins("solver").items() if issubclass(cls, of.RungeKutta)]
EXACT = [of.Backprop(), of.Checkpointed(), of.Checkpointed(every=3), of.Checkpointed(max_bytes=400)]


SOLVERS = [
    RK4(num_steps=9),
    Dopri5(1e-4, 1e-4),
    AdamsBashforth(order=3, num_steps=9),
    Kvaerno5(1e-3, 1e-3),
    Rodas4(1e-3, 1e-3),
]


@pytest.mark.parametrize("name", EXPLICIT)
@pytest.mark.parametrize("backwards", [False, True])
def test_agrees_with_the_output_times(name: str, backwards: bool, pendulum: torch.nn.Module) -> None:
    """At the requested times it equals the saved states, and costs at most one evaluation."""
    t = torch.linspace(1.5, -0.5, 12, dtype=D) if backwards else torch.linspace(-0.5, 1.5, 12, dtype=D)
    y0 = 0.3 * torch.randn(3, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = of.solve(pendulum, y0, t, solver=stepping(look_up("solver", name))(0.13))
        solution = of.solve(pendulum, y0, t, solver=stepping(look_up("solver", name))(0.13), dense=True)
    assert torch.allclose(solution.y, plain.y, rtol=0, atol=1e-14)
    assert solution.stats.nfe_forward - plain.stats.nfe_forward <= 1
    assert torch.allclose(solution(t), plain.y, rtol=0, atol=1e-11)
    assert torch.allclose(solution(t.flip(0)).flip(0), solution(t), rtol=0, atol=1e-11)  # Dopri8 rounds to 5e-13
    assert torch.allclose(solution(float(t[3])), plain.y[3], rtol=0, atol=1e-12)


@pytest.mark.parametrize("gradient", EXACT, ids=lambda gradient: f"{type(gradient).__name__}{vars(gradient)}")
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_gradients_are_backprops(gradient: of.Gradient, solver: of.Solver, pendulum: torch.nn.Module) -> None:
    """∂L/∂y₀ and ∂L/∂θ through solution(t) are those of an ordinary solve that outputs the same times."""
    q = torch.tensor([0.2, 0.35, 0.9, 1.1], dtype=D)
    y0 = torch.randn(2, 3, dtype=D, generator=torch.Generator().manual_seed(0)).requires_grad_()
    wanted = [y0, *(param for param in pendulum.parameters() if param.requires_grad)]

    def gradients(y: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad((y[1:] ** 3).sum(), wanted, allow_unused=True))

    dense = of.solve(pendulum, y0, [0.2, 1.1], solver=solver, gradient=gradient, dense=True)
    asked = of.solve(pendulum, y0, q, solver=solver, gradient=of.Backprop())
    for found, truth in zip(gradients(dense(q)), gradients(asked.y), strict=True):
        assert (found is None) == (truth is None)
        assert found is None or torch.allclose(found, truth, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("gradient", EXACT[:2], ids=lambda gradient: type(gradient).__name__)
def test_gradients_by_finite_differences(gradient: of.Gradient, pendulum: torch.nn.Module) -> None:
    """solution(t) is differentiable with respect to t, the first and the last time of the solve, and y₀."""
    y0 = torch.tensor([[0.3, -0.8, 0.5]], dtype=D)
    span, q = torch.tensor([0.1, 1.3], dtype=D), torch.tensor([0.31, 0.77], dtype=D)

    def value(y0: Tensor, span: Tensor, q: Tensor) -> Tensor:
        return of.solve(pendulum, y0, span, solver=RK4(num_steps=7), gradient=gradient, dense=True)(q)

    inputs = tuple(each.requires_grad_() for each in (y0, span, q))
    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=1e-7, rtol=1e-6)


def test_second_derivatives_by_backprop(pendulum: torch.nn.Module) -> None:
    """By Backprop, solution(t) is twice differentiable."""
    y0, q = (
        torch.tensor([[0.3, -0.8, 0.5]], dtype=D, requires_grad=True),
        torch.tensor(0.4, dtype=D, requires_grad=True),
    )

    def value(y0: Tensor, q: Tensor) -> Tensor:
        solver = RK4(num_steps=3)
        return of.solve(pendulum, y0, [0.1, 1.3], solver=solver, gradient=of.Backprop(), dense=True)(q)

    assert torch.autograd.gradgradcheck(value, (y0, q), atol=1e-6)


def test_tuples() -> None:
    """A tuple state comes back as a tuple, at one time and at several."""

    def turn(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1].view(2, 1), -y[0].view(2)

    start = (torch.ones(2, 1, dtype=D), torch.zeros(2, dtype=D))
    solution = of.solve(turn, start, [0.0, 3.0], solver=Dopri5(1e-8, 1e-8), params=(), dense=True)
    first, second = solution(torch.linspace(0, 3, 5, dtype=D))
    assert (first.shape, second.shape) == ((5, 2, 1), (5, 2))
    first, second = solution(1.5)
    assert torch.allclose(first[:, 0], torch.full((2,), math.cos(1.5), dtype=D), atol=1e-6)
    assert torch.allclose(second, torch.full((2,), -math.sin(1.5), dtype=D), atol=1e-6)


def test_flows_give_what_their_trajectories_show() -> None:
    """With a divergence, an augmented state or penalties in training, a flow's solution(t) is its trajectory."""
    q, y0 = torch.tensor([0.0, 0.4, 1.0]), torch.randn(5, 2)
    flow = of.Flow(MLP(2), RK4(num_steps=5), options=of.FlowOptions(regularizers=[of.Kinetic(0.1)]))
    y, logdet = flow.trajectory(y0, q, divergence=of.Exact(), dense=True)(q)
    wanted = flow.trajectory(y0, q, divergence=of.Exact()).y
    assert torch.allclose(y, wanted[0], atol=1e-6)
    assert torch.allclose(logdet, wanted[1], atol=1e-6)
    wide = of.Flow(MLP(4), RK4(num_steps=5), options=of.FlowOptions(augment=2))
    assert torch.allclose(wide.trajectory(y0, q, dense=True)(q), wide.trajectory(y0, q).y, atol=1e-6)


def test_many_times_cost_no_evaluations() -> None:
    """A thousand times are interpolated: the field is not called."""
    calls = 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return riccati(t, y)

    solution = of.solve(counted, torch.ones(4, dtype=D), [0.0, 2.0], solver=RK4(num_steps=6), params=(), dense=True)
    before, t = calls, torch.linspace(0, 2, 1000, dtype=D)
    assert torch.allclose(solution(t)[:, 0], 1 / (1 + t**2), atol=1e-2)
    assert calls == before


def test_what_cannot_be_given_is_refused() -> None:
    """Times outside, solutions without dense output, hidden steps, and gradients that know no steps: a clear error."""
    one = torch.full((1,), 0.2, dtype=D, requires_grad=True)

    def solve(solver: of.Solver | None = None, gradient: of.Gradient | None = None, dense: bool = True) -> of.Solution:
        solver = solver or RK4(num_steps=3)
        return of.solve(riccati, one, [2.0, 0.0], solver=solver, gradient=gradient, params=(), dense=dense)

    with pytest.raises(of.SettingError, match=r"t = -0\.1 lies outside of the solution, which goes from 2 to 0"):
        solve()(torch.tensor([1.0, -0.1]))
    with pytest.raises(of.SettingError, match="t = nan lies outside"):
        solve()(math.nan)
    with pytest.raises(of.SettingError, match=r"one time, \(\), or several, \(m,\); its shape is \(1, 1\)"):
        solve()(torch.ones(1, 1))
    with pytest.raises(of.SettingError, match="solve with dense=True"):
        solve(dense=False)(1.0)
    with pytest.raises(of.SettingError, match="TorchDiffEq is a black box: no dense output or events"):
        solve(TorchDiffEq("rk4"))
    for gradient in (of.Adjoint(), of.InterpolatedAdjoint(), of.Reversible()):
        with pytest.raises(of.GradientError, match=f"{type(gradient).__name__} does not support dense output"):
            solve(gradient=gradient)
        with torch.no_grad():
            assert solve(gradient=gradient)(1.0).shape == (1,)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_an_empty_batch(solver: of.Solver) -> None:
    """No samples have a solution too, at every time and for every exact gradient."""
    for gradient in EXACT:
        y0 = torch.zeros(0, 3, dtype=D, requires_grad=True)
        solution = of.solve(riccati, y0, [0.0, 0.3, 1.0], solver=solver, gradient=gradient, params=(), dense=True)
        assert solution.y.shape == (3, 0, 3)
        assert solution(torch.tensor([0.1, 0.9])).shape == (2, 0, 3)
        assert torch.autograd.grad(solution.y.sum(), y0)[0].shape == (0, 3)


def test_no_times() -> None:
    """Asked for no times, it gives no states."""
    solution = of.solve(riccati, torch.ones(3, 2), [0.0, 1.0], solver=Euler(num_steps=2), params=(), dense=True)
    assert solution(torch.empty(0)).shape == (0, 3, 2)


def test_a_solver_that_hides_its_steps_is_told() -> None:
    """One that declares `shows_steps` and does not set the mesh's steps is an error that says what is missing."""

    class Hiding(of.Solver):
        order, shows_steps = 1, True

        def integrate(self, field, y0, t, observer=UNOBSERVED):
            return of.Solution(t, y0.expand(len(t), *y0.shape), of.Stats())

    with pytest.raises(
        of.PluginError, match=r"shows_steps = True, but did not set observer\.mesh\.steps.* as a Stepper"
    ):
        of.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0], solver=Hiding(), params=(), dense=True)
