"""Laws of multistep solvers: orders, coefficients, and gradients through their memory."""

import math

import pytest
import torch
from torch import Tensor, nn

import odeflow as of
from choice import pairwise
from odeflow.engine.methods.multistep import adams
from odeflow.plugin.registry import look_up

D = torch.float64
NAMES = ["AdamsBashforth", "AdamsBashforthMoulton"]


def test_coefficients_are_the_known_ones() -> None:
    """Those of Adams–Bashforth and Adams–Moulton of order 4 (Hairer, Nørsett & Wanner, III.1.5 and III.1.9)."""
    known = {(0, -1, -2, -3): (55, -59, 37, -9), (1, 0, -1, -2): (9, 19, -5, 1)}
    for nodes, weights in known.items():
        assert [sum(row) for row in adams(nodes)] == pytest.approx([weight / 24 for weight in weights], abs=1e-15)


@pytest.mark.parametrize("order", range(1, 9))
@pytest.mark.parametrize("name", NAMES)
def test_orders(name: str, order: int) -> None:
    """The largest error at the ends of steps and inside them falls as the step size to the power of the order."""
    errors: list[float] = []
    for steps in (64, 128) if order >= 6 else (128, 256):
        t = torch.linspace(-1.5, 0.75, 33, dtype=D) + 1e-3
        t[0] = -1.5
        y0 = (1 / (1 + t[:1] ** 2)).clone()
        solver = look_up("solver", name)(order=order, num_steps=steps)
        y = of.solve(lambda t, y: -2 * t * y**2, y0, t, solver=solver, params=()).y[:, 0]
        errors.append(float((y - 1 / (1 + t**2)).abs().max()))
    assert math.log2(errors[0] / errors[1]) > order - 0.35


@pytest.mark.parametrize("order", [1, 3, 8])
@pytest.mark.parametrize(("name", "cost"), [("AdamsBashforth", 1), ("AdamsBashforthMoulton", 2)])
def test_evaluations(name: str, cost: int, order: int) -> None:
    """One more step costs one evaluation, or two with the corrector, whatever the order."""
    nfe = [
        of.solve(
            lambda t, y: -y,
            torch.ones(1),
            [0.0, 1.0],
            solver=look_up("solver", name)(order=order, num_steps=n),
            params=(),
        ).stats.nfe_forward
        for n in (20, 21)
    ]
    assert nfe[1] - nfe[0] == cost


@pytest.mark.parametrize(("name", "order", "count"), pairwise(NAMES, [1, 4, 7], [2, 5]))
def test_gradients(name: str, order: int, count: int, pendulum: nn.Module) -> None:
    """Checkpointed carries the slopes of earlier steps: its gradients are Backprop's; Adjoint's converge to them."""
    y0 = torch.randn(4, 3, dtype=D, generator=torch.Generator().manual_seed(3), requires_grad=True)
    t = torch.linspace(0.2, 1.3, count, dtype=D, requires_grad=True)
    solver = look_up("solver", name)(order=order, num_steps=40)
    wanted = [y0, t, *pendulum.inner.parameters()]

    def found(gradient: of.Gradient, solver: of.Solver = solver) -> tuple[Tensor, ...]:
        y = of.solve(pendulum, y0, t, solver=solver, gradient=gradient).y
        return torch.autograd.grad((y.sin() * torch.linspace(-1, 2, y.numel(), dtype=D).view_as(y)).sum(), wanted)

    truth = found(of.Backprop())
    close = {1: math.inf, 4: 1e-3, 7: 1e-3}[order]  # that of order 1 is far off at these steps
    for gradient, tolerance in {of.Checkpointed(): 1e-12, of.Checkpointed(every=7): 1e-12, of.Adjoint(): close}.items():
        for value, true in zip(found(gradient), truth, strict=True):
            assert float((value - true).norm() / true.norm()) < tolerance
    shifted = y0.detach().clone()
    with torch.no_grad():
        ends: list[float] = []
        for sign in (1, -1):
            shifted[1, 2] += sign * 1e-4
            y = of.solve(pendulum, shifted, t, solver=solver).y
            ends.append(float((y.sin() * torch.linspace(-1, 2, y.numel(), dtype=D).view_as(y)).sum()))
            shifted[1, 2] -= sign * 1e-4
    assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(float(truth[0][1, 2]), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "order", "gradient"), pairwise(NAMES, [1, 2, 4, 6], [of.Backprop(), of.Checkpointed()])
)
def test_a_field_that_jumps(name: str, order: int, gradient: of.Gradient) -> None:
    """With jump_ts the order is kept over a jump, on a point of the grid or off it, and the field, nan there, not met."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t == place, torch.nan, torch.where(t > place, -2.0, torch.cos(t))) * y

    rows = torch.tensor([0.0, 0.47, 0.81, 1.3, 2.0], dtype=D)
    for place in (1.0, 0.9):
        errors: list[float] = []
        y0 = torch.ones(1, 1, dtype=D, requires_grad=True)
        exact = (rows.clamp(max=place).sin() - 2 * (rows - place).clamp(min=0)).exp()
        for steps in (80, 160):
            solver = look_up("solver", name)(order=order, num_steps=steps, jump_ts=(place,))
            y = of.solve(field, y0, rows, solver=solver, gradient=gradient, params=()).y[:, 0, 0]
            errors.append(float((y - exact).detach().abs().max()))
        assert math.log2(errors[0] / errors[1]) > order - 0.5
        (slope,) = torch.autograd.grad(y[-1], y0)
        assert float(slope) == pytest.approx(float(y[-1].detach()), rel=1e-12)  # linear


def test_wrong_orders_are_refused() -> None:
    """An order beyond 1 to 8 is refused with what came."""
    for order in (0, 9):
        with pytest.raises(of.SettingError, match=f"order must be a whole number from 1 to 8; got {order}"):
            look_up("solver", "AdamsBashforth")(order=order, num_steps=3)
    with pytest.raises(of.SettingError, match=r"AdamsBashforthMoulton: .* give step_size or num_steps$"):
        look_up("solver", "AdamsBashforthMoulton")()
