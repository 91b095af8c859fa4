"""Laws of symplectic solvers: energy over long times, time reversal, order, gradients."""

import math

import pytest
import torch
from torch import Tensor, nn

import odeflow as of
from odeflow.plugin.registry import look_up

D = torch.float64
NAMES = ["Leapfrog", "Yoshida4"]


def kepler(t: Tensor, y: Tensor) -> Tensor:
    """A planet around a star: state (q, p), 4 numbers."""
    q, p = y.chunk(2, 1)
    return torch.cat((p, -q / q.norm(dim=1, keepdim=True) ** 3), 1)


def energy(y: Tensor) -> Tensor:
    q, p = y.chunk(2, -1)
    return p.square().sum(-1) / 2 - 1 / q.norm(dim=-1)


def orbit(eccentricity: float) -> Tensor:
    """(1, 4), where the planet is closest, with the period 2π."""
    speed = math.sqrt((1 + eccentricity) / (1 - eccentricity))
    return torch.tensor([[1 - eccentricity, 0.0, 0.0, speed]], dtype=D)


@torch.no_grad()
def drift(name: str, periods: int, steps: int) -> tuple[float, float]:
    """The largest error of the energy in the first and in the last tenth of so many periods."""
    y0, part = orbit(0.3), 2 * math.pi * periods / 10
    t = torch.cat([torch.linspace(start, start + part, 400, dtype=D) for start in (0.0, 9.01 * part)])
    y = of.solve(kepler, y0, t, solver=look_up("solver", name)(step_size=2 * math.pi / steps)).y[:, 0]
    error = (energy(y) - energy(y0)).abs()
    return float(error[:400].max()), float(error[400:].max())


@pytest.mark.parametrize("name", NAMES)
def test_energy_error_does_not_grow(name: str) -> None:
    """Over 200 periods of a Kepler orbit the error of the energy stays what it was; that of Heun's method grows."""
    first, last = drift(name, 200, 30)
    assert last < 1.1 * first < 0.05
    grown = drift("Heun", 20, 30)
    assert grown[1] > 2 * grown[0]


@pytest.mark.slow
def test_energy_error_does_not_grow_in_ten_thousand_periods() -> None:
    """Over 10⁴ periods the leapfrog's error of the energy stays what it was."""
    first, last = drift("Leapfrog", 10_000, 30)
    assert last < 1.1 * first < 0.05


class Swing(nn.Module):
    """A separable field with a parameter, which depends on time, on tuples (q, p)."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(1.3, dtype=D))

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        q, p = y
        return p * (1 + 0.3 * torch.sin(t)), -self.strength * torch.sin(q) * torch.cos(t / 2)


def start() -> tuple[Tensor, Tensor]:
    return torch.tensor([[1.0, 0.5]], dtype=D), torch.tensor([[0.3, -1.0]], dtype=D)


@pytest.mark.parametrize("name", NAMES)
def test_order_and_time_reversal(name: str) -> None:
    """The error falls by the order, at the steps' ends and by no less than the third power inside; going back returns."""
    cls, t = look_up("solver", name), torch.linspace(0, 3, 8, dtype=D)
    with torch.no_grad():
        exact = torch.cat(of.solve(Swing(), start(), t, solver=look_up("solver", "Dopri8")(1e-11, 1e-12)).y, -1)
        errors: list[float] = []
        for steps in (40, 80, 160):
            there = of.solve(Swing(), start(), t, solver=cls(num_steps=steps)).y
            errors.append(float((torch.cat(there, -1) - exact).abs().max()))
        end = tuple(leaf[-1].contiguous() for leaf in there)
        back = of.solve(Swing(), end, t[[-1, 0]], solver=cls(num_steps=160)).y
    assert math.log2(errors[0] / errors[-1]) / 2 == pytest.approx(cls.order, abs=0.3)
    assert torch.allclose(torch.cat([leaf[-1] for leaf in back]), torch.cat(start()), atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_evaluations_and_states(name: str) -> None:
    """A kick and a drift cost one evaluation each; a tuple, a batch and a single system are the same solve."""
    cls, y0 = look_up("solver", name), orbit(0.2)
    with torch.no_grad():
        nfe = [of.solve(kepler, y0, [0.0, 1.0], solver=cls(num_steps=n)).stats.nfe_forward for n in (5, 6)]
        assert nfe[1] - nfe[0] == 2 * len(cls.weights)
        whole = of.solve(kepler, y0, [0.0, 1.0], solver=cls(num_steps=5)).y[-1]
        alone = of.solve(lambda t, y: kepler(t, y[None])[0], y0[0], [0.0, 1.0], solver=cls(num_steps=5)).y[-1]

        def on_tuples(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
            return kepler(t, torch.cat(y, 1)).chunk(2, 1)

        pair = of.solve(on_tuples, tuple(y0.chunk(2, 1)), [0.0, 1.0], solver=cls(num_steps=5)).y
    assert torch.allclose(whole[0], alone, atol=1e-15)
    assert torch.allclose(whole, torch.cat([leaf[-1] for leaf in pair], 1), atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name: str) -> None:
    """Backprop's gradients are central differences, Checkpointed's are Backprop's, Adjoint has a solver of its own."""
    field, solver = Swing(), look_up("solver", name)(num_steps=7)
    q, p = (leaf.requires_grad_() for leaf in start())

    def loss(gradient: of.Gradient) -> Tensor:
        y = of.solve(field, (q, p), [0.0, 0.6, 2.0], solver=solver, gradient=gradient).y
        return (torch.cat(y, -1).sin() * torch.linspace(-1, 2, 12, dtype=D).view(3, 1, 4)).sum()

    wanted = [q, p, field.strength]
    found = torch.autograd.grad(loss(of.Backprop()), wanted)
    for value, true in zip(torch.autograd.grad(loss(of.Checkpointed()), wanted), found, strict=True):
        assert torch.allclose(value, true, rtol=1e-12)
    ends: list[float] = []
    for shift in (1e-5, -2e-5, 1e-5):
        with torch.no_grad():
            field.strength += shift
            ends.append(float(loss(of.Backprop())))
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(found[2]), rel=1e-7)
    with pytest.raises(of.StateError, match=r"separable field.* give that a solver of its own or use Checkpointed"):
        torch.autograd.grad(loss(of.Adjoint()), wanted)
    adjoint = of.Adjoint(look_up("solver", "Dopri5")(1e-8, 1e-9))
    solver = look_up("solver", name)(num_steps=400)
    for value, true in zip(
        torch.autograd.grad(loss(adjoint), wanted), torch.autograd.grad(loss(of.Backprop()), wanted), strict=True
    ):
        assert torch.allclose(value, true, rtol=1e-3, atol=1e-4)


def test_what_is_not_mechanics_is_refused() -> None:
    """An odd state, and rates that depend on their own half, are refused with what to do."""
    leapfrog = look_up("solver", "Leapfrog")(num_steps=3)
    with pytest.raises(of.StateError, match=r"positions and as many momenta: .* got shape \(2, 3\)"):
        of.solve(lambda t, y: y, torch.ones(2, 3), [0.0, 1.0], solver=leapfrog, params=())

    def damped(t: Tensor, y: Tensor) -> Tensor:
        q, p = y.chunk(2, 1)
        return torch.cat((p, -q - 0.1 * p), 1)

    def moving(t: Tensor, y: Tensor) -> Tensor:
        q, p = y.chunk(2, 1)
        return torch.cat((p * q, -q), 1)

    for field, what in {damped: "dp/dt depends on p", moving: "dq/dt depends on q"}.items():
        with pytest.raises(of.StateError, match=f"but {what}. Use another solver such as ImplicitMidpoint"):
            of.solve(field, torch.zeros(2, 2), [0.0, 1.0], solver=leapfrog, params=())


@pytest.mark.parametrize("gradient", [of.Backprop(), of.Checkpointed()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("name", ["Leapfrog", "Yoshida4"])
def test_a_force_that_jumps(name: str, gradient: of.Gradient) -> None:
    """With jump_ts a step ends where the force jumps, nan there, and each side has its own force."""

    def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        q, p = state
        stiffness = torch.where(t == 1, torch.nan, torch.where(t > 1, 4.0, 1.0))
        return p, -stiffness * q

    q0 = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    solver = look_up("solver", name)(step_size=0.011, jump_ts=(1.0,))
    state = (q0, torch.zeros(1, 1, dtype=torch.float64))
    q = of.solve(field, state, [0.0, 2.0], solver=solver, gradient=gradient, params=()).y[0][-1]
    truth = math.cos(1) * math.cos(2) - math.sin(1) * math.sin(2) / 2
    assert float(q.detach()) == pytest.approx(truth, abs=1e-3 if name == "Leapfrog" else 1e-6)
    assert float(torch.autograd.grad(q.sum(), q0)[0]) == pytest.approx(float(q.detach()), rel=1e-9)  # linear
