"""Laws of TorchDiffEq: every method of torchdiffeq, scipy's included, behind the contract."""

import math
from typing import Any

import pytest
import torch
from torchdiffeq._impl.odeint import SOLVERS

import odeflow as of
from equations import riccati
from odeflow.plugin.registry import look_up

D = torch.float64
TorchDiffEq = look_up("solver", "TorchDiffEq")
STEPS = {"step_size": 0.05}
SCIPY = ["RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA"]
OPTIONS: dict[str, dict[str, Any]] = {
    "euler": STEPS,
    "midpoint": STEPS,
    "heun2": STEPS,
    "heun3": STEPS,
    "rk4": STEPS | {"interp": "cubic"},
    "explicit_adams": STEPS | {"max_order": 4},  # torchdiffeq's default of 12 is unstable
    "implicit_adams": STEPS | {"max_order": 4},
    "fixed_adams": STEPS | {"max_iters": 8},
    "dopri8": {"first_step": 0.01},
    "dopri5": {"max_num_steps": 1000},
    "bosh3": {"min_step": 1e-6},
    "adaptive_heun": {"safety": 0.8},
    "fehlberg2": {"ifactor": 5.0},
    "scipy_solver": {},
}
COARSE = {"euler", "bosh3", "fehlberg2"}
"""Methods whose errors are far above these tolerances: they take few steps and interpolate coarsely."""

CASES = [*OPTIONS.items(), *(("scipy_solver", {"solver": name, "max_step": 0.5}) for name in SCIPY)]


def solver(method: str, options: dict[str, Any]) -> of.Solver:
    return TorchDiffEq(method, 1e-4, 1e-5, options)


def test_every_method_is_there() -> None:
    """The methods are those of the installed torchdiffeq, and each is tested here."""
    assert OPTIONS.keys() == SOLVERS.keys()
    for method in SOLVERS:
        TorchDiffEq(method)


@pytest.mark.parametrize(("method", "options"), CASES, ids=str)
@pytest.mark.parametrize("t", [[0.0, 0.5, 1.0], [1.0, 0.4, 0.0]], ids=["forwards", "backwards"])
def test_solves(method: str, options: dict[str, Any], t: list[float]) -> None:
    """Each method with options of its own follows the solution, in both directions of time, and counts evaluations."""
    y0 = torch.full((2, 1), 1 / (1 + t[0] ** 2), dtype=D)
    solution = of.solve(riccati, y0, t, solver=solver(method, options), params=())
    wanted = 1 / (1 + solution.t**2)
    assert float((solution.y - wanted[:, None, None]).abs().max()) < (0.05 if method in COARSE else 2e-3)
    assert solution.y.dtype == D
    assert solution.stats.nfe_forward > 0


@pytest.mark.parametrize(("method", "options"), CASES, ids=str)
def test_tuple_states(method: str, options: dict[str, Any]) -> None:
    """A tuple is solved by each method as its leaves are."""
    y0 = (torch.ones(2, 1, dtype=D), torch.ones(3, dtype=D))
    first, second = of.solve(
        lambda t, y: (riccati(t, y[0]), -y[1]), y0, [0.0, 0.5], solver=solver(method, options), params=()
    ).y
    assert torch.allclose(first[-1], torch.full((2, 1), 0.8, dtype=D), atol=0.02)
    assert torch.allclose(second[-1], torch.full((3,), math.exp(-0.5), dtype=D), atol=0.02)


@pytest.mark.parametrize(("method", "options"), CASES, ids=str)
def test_gradients(method: str, options: dict[str, Any]) -> None:
    """Each has an adjoint, and but for scipy's, which say so, one through its steps."""
    rate = torch.tensor(-0.7, dtype=D, requires_grad=True)

    def found(gradient: of.Gradient) -> float:
        y0 = torch.ones(2, dtype=D)
        y = of.solve(
            lambda t, y: rate * y, y0, [0.0, 1.0], solver=solver(method, options), gradient=gradient, params=[rate]
        ).y[-1]
        return float(torch.autograd.grad(y.sum(), rate)[0])

    truth = 2 * math.exp(-0.7)
    assert found(of.Adjoint()) == pytest.approx(truth, rel=0.05 if method in COARSE else 5e-3)
    for gradient in (of.Backprop(), of.Checkpointed()):
        if method == "scipy_solver":
            with pytest.raises(of.GradientError, match=r"scipy computes outside autograd.* use gradient=Adjoint\(\)"):
                found(gradient)
        else:
            assert found(gradient) == pytest.approx(truth, rel=0.05 if method in COARSE else 5e-3)


def test_what_is_unknown_is_refused() -> None:
    """An unknown method, or one unknown to scipy, is refused with those that there are; orders are the method's."""
    with pytest.raises(of.SettingError, match=r"torchdiffeq has no method 'rk5'; it has euler, .*scipy_solver"):
        TorchDiffEq("rk5")
    with pytest.raises(of.SettingError, match=r"scipy has no solver 'Radau5'; it has RK45, .*LSODA"):
        TorchDiffEq("scipy_solver", options={"solver": "Radau5"})
    assert TorchDiffEq("scipy_solver", options={"solver": "DOP853"}).order == 8
    assert TorchDiffEq("scipy_solver").order == TorchDiffEq("dopri5").order == 5


def test_too_many_fixed_steps_are_refused() -> None:
    """A step size that takes more than a million steps is refused before the solve."""
    solver = TorchDiffEq("rk4", options={"step_size": 1e-12})
    with pytest.raises(
        of.SettingError, match=r"step_size = 1e-12 takes 1e\+12 steps over a time span of 1, more than 1000000"
    ):
        of.solve(riccati, torch.ones(2), [0.0, 1.0], solver=solver, params=())
