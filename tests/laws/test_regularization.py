"""Laws of the regularisers: what they integrate, and that every gradient carries it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odeflow as of
from odeflow.plugin import registry
from odeflow_dynamics import MLP
from odeflow_solvers import RK4, Dopri5

registry.discover()
FINE = Dopri5(rtol=1e-10, atol=1e-10)


class Law(nn.Module):
    """A field given by a formula."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.formula(t, y)


def penalty(field: nn.Module, y0: Tensor, regularizer: of.Regularizer, **options: Any) -> float:
    flow = of.Flow(field, FINE, of.Backprop(), of.FlowOptions(regularizers=[regularizer], **options))
    flow(y0)
    (value,) = flow.penalties.values()
    return value.item()


def test_kinetic_is_the_integral_of_the_squared_speed() -> None:
    """On dy/dt = t·a, ∫₀² ‖f‖²/n dt = 8/3 · mean a²; backwards in time the penalty is no less positive."""
    a = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    field, y0 = Law(lambda t, y: t * a + 0 * y), torch.zeros(4, 3, dtype=torch.float64)
    expected = 0.5 * 8 / 3 * a.square().mean().item()
    assert penalty(field, y0, of.Kinetic(0.5), t1=2.0) == pytest.approx(expected, rel=1e-8)
    assert penalty(field, y0, of.Kinetic(0.5), t0=2.0, t1=0.0) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_taylor_is_the_total_derivative(order: int) -> None:
    """On dy/dt = λy, dᴷy/dtᴷ = λᴷy, so that the integral is λ²ᴷ y₀² (e^2λ − 1)/2λ."""
    rate = -0.7
    y0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    expected = rate ** (2 * order) * 2.5 * math.expm1(2 * rate) / (2 * rate)
    assert penalty(Law(lambda t, y: rate * y), y0, of.Taylor(1.0, order)) == pytest.approx(expected, rel=1e-8)


def test_taylor_sees_explicit_time() -> None:
    """On dy/dt = t³, d²y/dt² = 3t² and d³y/dt³ = 6t although the field does not depend on y."""
    field, y0 = Law(lambda t, y: t**3 + 0 * y), torch.zeros(2, 1, dtype=torch.float64)
    assert penalty(field, y0, of.Taylor(1.0, 2)) == pytest.approx(9 / 5, rel=1e-8)
    assert penalty(field, y0, of.Taylor(1.0, 3)) == pytest.approx(12, rel=1e-8)


def test_jacobian_is_the_frobenius_norm_in_expectation() -> None:
    """On dy/dt = yAᵀ the estimate's mean is ‖A‖²/n, within four standard errors; a field without y has none."""
    torch.manual_seed(0)
    matrix, count = torch.randn(5, 5, dtype=torch.float64), 4096
    y0 = torch.zeros(count, 5, dtype=torch.float64)
    truth = matrix.square().sum().item() / 5
    spread = 2 * (matrix @ matrix.t()).square().sum().item() / 25  # variance of εᵀAAᵀε/n for normal ε
    found = penalty(Law(lambda t, y: y @ matrix.t()), y0, of.JacobianNorm(1.0))
    assert abs(found - truth) < 4 * math.sqrt(spread / count)
    assert penalty(Law(lambda t, y: matrix[0].expand_as(y).clone()), y0, of.JacobianNorm(1.0)) == 0.0


def _grads(gradient: of.Gradient) -> list[Tensor]:
    torch.manual_seed(0)
    field, y0 = MLP(3, hidden=(8,)).double(), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    regularizers = [of.Kinetic(0.3), of.JacobianNorm(0.2), of.Taylor(0.1, 2)]
    flow = of.Flow(field, Dopri5(rtol=1e-9, atol=1e-9), gradient, options=of.FlowOptions(regularizers=regularizers))
    torch.manual_seed(1)
    loss = flow(y0).square().mean() + sum(flow.penalties.values())
    return list(torch.autograd.grad(loss, (y0, *field.parameters())))


@pytest.mark.parametrize("name", registry.plugins("gradient"))
def test_every_gradient_carries_the_penalties(name: str) -> None:
    """∂(loss + penalties) to y0 and θ agrees with plain autograd."""
    gradient = registry.look_up("gradient", name)()
    assert isinstance(gradient, of.Gradient)
    for found, expected in zip(_grads(gradient), _grads(of.Backprop()), strict=True):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_penalties_agree_with_finite_differences() -> None:
    """The gradient of the penalties to a weight is the quotient of differences, in float64."""
    torch.manual_seed(0)
    field, y0 = MLP(3, hidden=(8,)).double(), torch.randn(4, 3, dtype=torch.float64)
    flow = of.Flow(
        field,
        RK4(num_steps=4),
        options=of.FlowOptions(regularizers=[of.Kinetic(1.0), of.JacobianNorm(1.0), of.Taylor(1.0, 3)]),
    )
    weight = next(field.parameters())

    def total() -> Tensor:
        torch.manual_seed(1)
        flow(y0)
        return torch.stack(list(flow.penalties.values())).sum()

    (found,) = torch.autograd.grad(total(), weight)
    with torch.no_grad():
        values: list[float] = []
        for shift in (1e-5, -2e-5):
            weight[0, 0] += shift
            values.append(total().item())
    assert found[0, 0].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


def test_only_training_is_regularised() -> None:
    """In evaluation there are no penalties, and the states are those of the flow without regularisers."""
    torch.manual_seed(0)
    field, y0 = MLP(3), torch.randn(4, 3)
    flow = of.Flow(field, RK4(num_steps=4), options=of.FlowOptions(regularizers=[of.Kinetic(1.0)]))
    trained = flow(y0)
    assert list(flow.penalties) == ["kinetic"]
    flow.eval()
    assert torch.allclose(flow(y0), trained, atol=1e-6)
    assert flow.penalties == {}


def test_steer_moves_the_end_of_training_alone() -> None:
    """With dy/dt = 1 the last state is the last time: uniform in (t1 − b, t1 + b) in training, t1 in evaluation."""
    torch.manual_seed(0)
    flow = of.Flow(
        Law(lambda t, y: torch.ones_like(y)), RK4(num_steps=1), of.Backprop(), options=of.FlowOptions(t1=2.0, steer=0.5)
    )
    y0 = torch.zeros(1, 1)
    ends = torch.tensor([flow(y0).item() for _ in range(400)])
    assert 1.5 <= ends.min() < 1.52
    assert 2.48 < ends.max() <= 2.5
    assert abs(ends.mean().item() - 2) < 4 * 0.5 / math.sqrt(3 * 400)
    flow.eval()
    assert flow(y0).item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: of.Kinetic(-1.0), of.SettingError, r"Kinetic: weight must be at least 0; got -1"),
        (lambda: of.Taylor(1.0, 0), of.SettingError, r"Taylor: order must be at least 1; got 0"),
        (
            lambda: of.Flow(MLP(2), RK4(num_steps=1), options=of.FlowOptions(steer=1.0)),
            of.SettingError,
            r"steer must lie between 0 and the flow's duration 1; got 1",
        ),
        (
            lambda: of.Flow(
                Law(lambda t, y: y),
                RK4(num_steps=1),
                of.Backprop(),
                options=of.FlowOptions(regularizers=[of.Kinetic(1.0)]),
            )((torch.zeros(2, 1), torch.zeros(2, 1))),
            of.StateError,
            r"regularizers need a state of shape \(B, d, …\); got a tuple",
        ),
    ],
)
def test_mistakes_are_explained(call: Callable[[], object], error: type[Exception], message: str) -> None:
    """What cannot be regularised is refused with what was wanted."""
    with pytest.raises(error, match=message):
        call()
