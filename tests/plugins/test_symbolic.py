"""Laws of the fields that are written down: their equations, what they conserve, how they are learned again."""

import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.plugin import registry
from odeflow_dynamics import (
    MLP,
    Controlled,
    Cubic,
    DampedPendulum,
    Linear,
    LotkaVolterra,
    OwnClock,
    Piecewise,
    Projectile,
    Sum,
)
from odeflow_solvers import RK4, Dopri5

D = torch.float64
ZERO = torch.zeros((), dtype=D)
FIELDS: dict[str, Callable[[], of.Dynamics]] = {
    "Cubic": lambda: Cubic(2, [[-0.1, 2.0], [-2.0, -0.1]]),
    "DampedPendulum": lambda: DampedPendulum(2.0, 0.3),
    "Linear": lambda: Linear(2, matrix=[[-0.1, 1.0], [-0.2, -0.1]]),
    "LotkaVolterra": lambda: LotkaVolterra(0.7, 0.8, 0.6, 0.9),
    "Projectile": lambda: Projectile(9.81, 0.1),
    "Sum": lambda: Sum([DampedPendulum(2.0), MLP(2, [4])]),
}


def random_states(field: of.Dynamics, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 0.5 + torch.rand(count, field.width, dtype=D, generator=generator)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_stored_and_built_again(name: str) -> None:
    """The spec survives JSON and builds the same field; slopes have the state's shape and dtype, sample by sample."""
    torch.manual_seed(0)
    field = FIELDS[name]().double()
    again = registry.build(json.loads(json.dumps(field.spec))).double()
    again.load_state_dict(field.state_dict())
    y = random_states(field)
    slope = field(ZERO, y)
    assert (slope.shape, slope.dtype) == (y.shape, D)
    torch.testing.assert_close(again(ZERO, y), slope)
    torch.testing.assert_close(field(ZERO, y[2:3]), slope[2:3])


@pytest.mark.parametrize("name", FIELDS)
def test_gradients_of_coefficients_agree_with_differences(name: str) -> None:
    """∂L/∂θ and ∂L/∂y₀ through a solve are those of finite differences."""
    torch.manual_seed(0)
    field = FIELDS[name]().double()
    names = [key for key, param in field.named_parameters() if param.requires_grad]
    values = [param.detach().clone().requires_grad_() for param in field.parameters()]

    def end(y0: Tensor, *params: Tensor) -> Tensor:
        given = dict(zip(names, params, strict=True))
        y = y0
        for _ in range(3):
            y = y + 0.1 * torch.func.functional_call(field, given, (ZERO, y))
        return y

    assert torch.autograd.gradcheck(end, (random_states(field, 2).requires_grad_(), *values))


@pytest.mark.parametrize("name", ["DampedPendulum", "LotkaVolterra", "Projectile", "Cubic", "Linear"])
def test_coefficients_that_are_given_are_not_learned(name: str) -> None:
    """With trainable=False no parameter wants a gradient; by default all do."""
    cls = type(FIELDS[name]())
    options = {"dim": 2} if name in ("Cubic", "Linear") else {}
    assert all(param.requires_grad for param in cls(**options).parameters())
    assert not any(param.requires_grad for param in cls(**options, trainable=False).parameters())


def test_the_cubic_field_is_that_of_the_spiral() -> None:
    """y³A, cubes entry by entry, row vector times matrix."""
    slope = FIELDS["Cubic"]().double()(ZERO, torch.tensor([[2.0, 1.0]], dtype=D))
    torch.testing.assert_close(slope, torch.tensor([[8 * -0.1 - 2, 8 * 2 - 0.1]], dtype=D), atol=1e-6, rtol=0)


def test_a_pendulum_without_drag_keeps_its_energy() -> None:
    """½ω² − (g/l) cos θ is constant; with drag it falls at the rate cω²."""
    y0 = torch.tensor([[2.0, 0.5]], dtype=D)

    def energy(field: DampedPendulum, y: Tensor) -> Tensor:
        return y[..., 1].square() / 2 - field.stiffness().detach() * y[..., 0].cos()

    free, damped = DampedPendulum(1.7).double(), DampedPendulum(1.7, 0.2).double()
    with torch.no_grad():
        y = of.solve(free, y0, [0.0, 3.0, 9.0], solver=Dopri5(1e-9, 1e-9)).y
        assert torch.allclose(energy(free, y), energy(free, y0), atol=1e-6)
    start = y0.clone().requires_grad_()
    (slope,) = torch.autograd.grad(energy(damped, start).sum(), start)
    rate = (slope * damped(ZERO, y0)).sum()
    torch.testing.assert_close(rate, -0.2 * torch.tensor(0.25, dtype=D), atol=1e-7, rtol=1e-6)


def test_prey_and_predators_go_round() -> None:
    """δx − γ log x + βy − α log y is constant along solutions, and the rates are the ones given."""
    field = LotkaVolterra(0.7, 0.8, 0.6, 0.9).double()
    rates = torch.stack([field.alpha(), field.beta(), field.gamma(), field.delta()]).detach()
    alpha, beta, gamma, delta = rates
    torch.testing.assert_close(rates, torch.tensor([0.7, 0.8, 0.6, 0.9], dtype=D), rtol=1e-6, atol=0)
    with torch.no_grad():
        y = of.solve(field, torch.tensor([[1.5, 0.5]], dtype=D), [0.0, 4.0, 11.0], solver=Dopri5(1e-9, 1e-9)).y
    x, y = y[:, 0].unbind(-1)
    constant = delta * x - gamma * x.log() + beta * y - alpha * y.log()
    assert torch.allclose(constant, constant[:1], atol=1e-6)


def test_a_projectile_flies_a_parabola() -> None:
    """Without drag the path is x = v t, h = u t − ½gt²; drag acts against the velocity, with its square."""
    with torch.no_grad():
        end = of.solve(
            Projectile(10.0).double(), torch.tensor([[0.0, 1, 3, 4]], dtype=D), [0.0, 2.0], solver=RK4(num_steps=2)
        ).y[-1]
        torch.testing.assert_close(end, torch.tensor([[6.0, 1 + 8 - 20, 3, 4 - 20]], dtype=D))
        slope = Projectile(0.0, 0.5).double()(ZERO, torch.tensor([[0.0, 0, 3, 4]], dtype=D))
    torch.testing.assert_close(slope, torch.tensor([[3.0, 4, -7.5, -10]], dtype=D))
    at_rest = Projectile(9.81, 0.5)
    at_rest(torch.zeros(()), torch.zeros(1, 4)).sum().backward()
    assert math.isfinite(at_rest.drag.raw.grad)


def test_a_sum_adds_its_terms() -> None:
    """The field is f₁ + f₂, in time and state, and both are learned."""
    known, net = DampedPendulum(2.0), MLP(2, [4])
    field, y, t = Sum([known, net]), torch.randn(3, 2), torch.tensor(0.3)
    torch.testing.assert_close(field(t, y), known(t, y) + net(t, y))
    assert len(list(field.parameters())) == 2 + 4
    assert of.Flow(field, RK4(num_steps=2))(y).shape == y.shape


@pytest.mark.parametrize("modify", [lambda field: field, lambda field: Piecewise(field, pieces=2, t0=-1.0)])
def test_clocks_start_when_their_samples_do(modify: Callable[[of.Dynamics], of.Dynamics]) -> None:
    """A batch that is solved from different times on equals its samples solved one by one; a gradient flows through."""
    torch.manual_seed(0)
    field = modify(MLP(2, [6])).double()
    flow = of.Flow(OwnClock(field), RK4(num_steps=4))
    y0, starts = torch.randn(3, 2, dtype=D), torch.tensor([[0.0], [1.0], [-2.5]], dtype=D)
    together = flow.trajectory(y0, [0.0, 0.5, 1.0], context=starts).y
    for number, start in enumerate(starts[:, 0].tolist()):
        alone = of.Flow(field, RK4(num_steps=4)).trajectory(y0[number : number + 1], [start, start + 0.5, start + 1]).y
        torch.testing.assert_close(together[:, number : number + 1], alone)
    wanted = torch.autograd.grad(together.sum(), list(field.parameters()))
    assert all(bool(grad.any()) for grad in wanted)
    torch.testing.assert_close(flow(y0), of.Flow(field, RK4(num_steps=4))(y0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cubic(2, [[1.0, 2.0]]), r"Cubic\(dim=2\): matrix must be 2 rows of 2 numbers; got rows of \[2\]"),
        (lambda: Linear(1, matrix=[[1.0, 2.0]]), r"Linear\(dim=1\): matrix must be 1 rows of 1"),
        (lambda: LotkaVolterra(beta=0.0), "LotkaVolterra: beta must be positive; got 0.0"),
        (lambda: Sum([]), "Sum expects terms of one width; got none"),
        (lambda: Sum([MLP(2), Projectile()]), "got MLP of width 2, Projectile of width 4"),
        (lambda: Sum([MLP(2), Controlled(MLP(4))]).enter(torch.ones(1, 2)), "Controlled solves for something else"),
    ],
)
def test_senseless_settings_are_refused(make: Callable[[], object], message: str) -> None:
    """An option out of its range is refused with what came."""
    with pytest.raises(of.SettingError, match=message):
        make()


@pytest.mark.parametrize(
    "field", [Cubic(2), DampedPendulum(), LotkaVolterra(), Projectile()], ids=lambda f: type(f).__name__
)
def test_states_of_another_width_are_refused(field: of.Dynamics) -> None:
    """A state of a wrong length is an error that says what was wanted and what came."""
    with pytest.raises(of.StateError, match=rf"takes states \(…, {field.width}\).*got \(3, 7\)"):
        field(torch.zeros(()), torch.zeros(3, 7))
