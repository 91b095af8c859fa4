"""Laws of solvers beside those of odeflow.testing: agreement with reference libraries, tolerances, statistics."""

import math

import pytest
import scipy.integrate
import torch
from torch import Tensor

import odeflow as of
from equations import riccati
from odeflow.engine.loop.stepper import Stepper
from odeflow.plugin.registry import look_up, plugins
from odeflow.testing.subject import stepping

ADAPTIVE = [name for name, cls in plugins("solver").items() if issubclass(cls, Stepper) and cls.error_order is not None]
TORCHDIFFEQ_FIXED = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
SAME_IN_TORCHDIFFEQ = {
    "Euler": "euler",
    "Midpoint": "midpoint",
    "Heun": "heun2",
    "RK38": "rk4",  # what torchdiffeq calls rk4 is the 3/8 rule
    "HeunEuler": "adaptive_heun",
    "Bosh3": "bosh3",
    "Dopri5": "dopri5",
    "Dopri8": "dopri8",
}
D = torch.float64


def error_at_end(solver: of.Solver, t1: float = 2.0, t0: float = 0.0) -> float:
    y0 = torch.full((1,), 1 / (1 + t0**2), dtype=D)
    solution = of.solve(riccati, y0, [t0, t1], solver=solver, params=())
    return abs(float(solution.y[-1]) - 1 / (1 + t1**2))


def slope(errors: list[float]) -> float:
    """Of log error against log step, the steps halving each time."""
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


@pytest.mark.parametrize("name", SAME_IN_TORCHDIFFEQ)
def test_a_step_is_torchdiffeqs(name: str, pendulum: torch.nn.Module) -> None:
    """One step of a method that torchdiffeq has too leads to the same state."""
    cls, method, h = look_up("solver", name), SAME_IN_TORCHDIFFEQ[name], 0.3
    y0 = torch.randn(5, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    options = {"step_size": h} if cls.error_order is None else {"first_step": torch.tensor(h, dtype=D)}
    theirs = look_up("solver", "TorchDiffEq")(method, 0.9, 1e3, options)
    with torch.no_grad():
        ours, wanted = (of.solve(pendulum, y0, [0.2, 0.2 + h], solver=each) for each in (stepping(cls)(h), theirs))
    assert ours.stats.accepted == 1
    assert torch.allclose(ours.y[1], wanted.y[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("method", "order"), TORCHDIFFEQ_FIXED.items())
def test_order_of_torchdiffeq(method: str, order: int) -> None:
    """Behind the contract, torchdiffeq's methods have the orders that the plugin states."""
    solvers = [look_up("solver", "TorchDiffEq")(method, options={"step_size": 2 / n}) for n in (40, 80, 160)]
    assert slope([error_at_end(solver) for solver in solvers]) == pytest.approx(order, abs=0.3)
    assert solvers[0].order == order


def tolerances(cls: type[of.Solver]) -> list[float]:
    """What a method of this order reaches in some thousand steps."""
    return [1e-4, 1e-7, 1e-10] if cls.order >= 4 else [1e-3, 1e-4, 1e-5]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_errors_against_scipy_fall_with_the_tolerance(name: str, pendulum: torch.nn.Module) -> None:
    """On a problem without closed solution, the difference from scipy's is within 100 tolerances, and not far less."""
    cls = look_up("solver", name)
    y0 = torch.randn(5, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    wanted = scipys_solution(pendulum, y0, torch.tensor([0.0, 3.0], dtype=D))[-1]
    errors: list[float] = []
    for tolerance in tolerances(cls):
        with torch.no_grad():
            y = of.solve(pendulum, y0, [0.0, 3.0], solver=cls(rtol=tolerance, atol=tolerance)).y[-1]
        errors.append(float((y - wanted).abs().max()) / tolerance)
    assert max(errors) < 100
    assert max(errors) < 1000 * min(errors)


def scipys_solution(field: torch.nn.Module, y0: Tensor, t: Tensor) -> Tensor:
    """(m, *state), by DOP853 at a tight tolerance."""

    def flat(time: float, y: object) -> object:
        with torch.no_grad():
            return field(torch.tensor(time, dtype=D), torch.tensor(y).view_as(y0)).flatten().numpy()

    span = (float(t[0]), float(t[-1]))
    y = scipy.integrate.solve_ivp(flat, span, y0.flatten(), "DOP853", t, rtol=3e-14, atol=1e-13).y
    return torch.tensor(y.T).view(-1, *y0.shape)


def test_agrees_with_torchdiffeq_and_scipy(pendulum: torch.nn.Module) -> None:
    """At tight tolerances Dopri5, torchdiffeq's dopri5 and dopri8, and scipy's DOP853 find the same trajectory."""
    y0 = torch.randn(5, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0, 3, 7, dtype=D)
    with torch.no_grad():
        ours = of.solve(pendulum, y0, t, solver=look_up("solver", "Dopri5")(1e-10, 1e-12)).y
        for method, precision in {"dopri5": 1e-8, "dopri8": 1e-6}.items():  # dopri8 interpolates coarsely
            theirs = of.solve(pendulum, y0, t, solver=look_up("solver", "TorchDiffEq")(method, 1e-10, 1e-12)).y
            assert torch.allclose(ours, theirs, rtol=precision, atol=precision)
    assert torch.allclose(ours, scipys_solution(pendulum, y0, t), rtol=1e-8, atol=1e-9)


def test_steps_hit_fractional_step_sizes() -> None:
    """A step size that does not divide the interval is reduced to the nearest one that does."""
    euler = look_up("solver", "Euler")
    stats = of.solve(riccati, torch.ones(1), [0.0, 1.0], solver=euler(step_size=0.3), params=()).stats
    assert stats.accepted == 4
    assert stats.smallest_step == pytest.approx(stats.largest_step) == pytest.approx(0.25)
    assert of.solve(riccati, torch.ones(1), [0.0, 0.9], solver=euler(step_size=0.3), params=()).stats.accepted == 3


def test_statistics_count_what_happened() -> None:
    """Evaluations and steps are counted: s a step for a fixed method, and rejected steps cost theirs.

    The first slope of a rejected step is kept, and no slope is evaluated at its end unless the error estimate needs it.
    """
    calls = 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return riccati(t, y)

    stats = of.solve(counted, torch.ones(1), [0.0, 1.0], solver=look_up("solver", "RK4")(num_steps=7), params=()).stats
    assert (stats.nfe_forward, stats.accepted, stats.rejected) == (28, 7, 0) == (calls, 7, 0)
    calls = 0
    dopri5 = look_up("solver", "Dopri5")(1e-6, 1e-8, first_step=1.0)
    stats = of.solve(counted, torch.ones(1), [0.0, 5.0], solver=dopri5, params=()).stats
    assert stats.rejected > 0
    assert stats.nfe_forward == calls == 1 + 6 * (stats.accepted + stats.rejected)
    calls = 0
    fehlberg = look_up("solver", "Fehlberg45")(1e-6, 1e-8, first_step=1.0)
    stats = of.solve(counted, torch.ones(1), [0.0, 5.0], solver=fehlberg, params=()).stats
    assert stats.rejected > 0
    assert stats.nfe_forward == calls == 6 * stats.accepted + 5 * stats.rejected


def test_output_times_cost_no_evaluations() -> None:
    """A thousand output times need the same steps as two."""
    dopri5 = look_up("solver", "Dopri5")(1e-6, 1e-8)
    few = of.solve(riccati, torch.ones(1, dtype=D), [0.0, 5.0], solver=dopri5, params=())
    many = of.solve(riccati, torch.ones(1, dtype=D), torch.linspace(0, 5, 1000, dtype=D), solver=dopri5, params=())
    assert few.stats.nfe_forward == many.stats.nfe_forward
    assert torch.allclose(many.y[:, 0], 1 / (1 + many.t**2), atol=1e-5)


def test_step_bounds_are_kept() -> None:
    """max_step bounds every step, and first_step is taken if it is good enough."""
    dopri5 = look_up("solver", "Dopri5")(1e-3, 1e-3, first_step=0.01, max_step=0.1)
    stats = of.solve(riccati, torch.ones(1), [0.0, 1.0], solver=dopri5, params=()).stats
    assert stats.largest_step <= 0.1 + 1e-9
    assert stats.smallest_step == pytest.approx(0.01)
