"""Laws of stochastic equations: orders, moments and gradients of every solver, and what is refused in words."""

import gc
import math
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise, permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odeflow as of
from choice import few
from odeflow.paths import Brownian, BrownianGrid, BrownianTree
from odeflow.plugin.registry import plugins
from odeflow.testing import Check, solver_checks
from odeflow_dynamics import MLP, Normed
from odeflow_sde import (
    SRA1,
    Entrywise,
    EulerHeun,
    EulerMaruyama,
    Milstein,
    NeuralSDE,
    ReversibleHeun,
    ShARK,
    SPaRK,
    StochasticHeun,
)
from odeflow_solvers import RK4, Dopri5, Euler

D = torch.float64
SOLVERS: dict[str, type[of.StochasticSolver]] = {
    name: cls for name, cls in plugins("solver").items() if issubclass(cls, of.StochasticSolver)
}
PATHS = 1000


def slope(sizes: list[int], errors: list[float]) -> float:
    """The mean slope of log error against log step size."""
    x, e = torch.tensor(sizes, dtype=D).log(), torch.tensor(errors, dtype=D).log()
    return -float(((x - x.mean()) * (e - e.mean())).sum() / (x - x.mean()).square().sum())


def motion(*shape: int) -> Brownian:
    """The Brownian motion on which errors of paths are measured."""
    return BrownianTree(4, shape, 0.0, 1.0, dtype=D)


def strong_slope(
    solver: type[of.StochasticSolver],
    sde: of.StochasticField,
    y0: Tensor,
    shape: tuple[int, ...],
    truth: Callable[[Brownian], Tensor],
    sizes: tuple[int, ...] = (16, 32, 64, 128, 256),
) -> float:
    """The slope of the mean error of a path at t = 1 against the step size, on one Brownian motion."""
    path = motion(*shape)
    exact, errors = truth(path), []
    for steps in sizes:
        with torch.no_grad():
            y = of.solve(sde, y0, [0.0, 1.0], solver=solver(num_steps=steps), noise=path).y[-1]
        errors.append(float((y - exact).abs().mean()))
    return slope(list(sizes), errors)


def calculus_of(solver: type[of.StochasticSolver]) -> Any:
    return solver.calculi[0]


def pairs(*noises: str) -> list[Any]:
    """Every solver with every of these kinds of noise that it supports, in every calculus."""
    return [
        pytest.param(cls, noise, calculus, id=f"{name}-{noise}-{calculus}")
        for name, cls in SOLVERS.items()
        for noise in noises
        if noise in cls.strong
        for calculus in cls.calculi
    ]


def laws() -> list[Any]:
    """Every law of the simplest solver and the reversible one, and the orders of all others; the rest is slow."""
    found = [(cls, check) for cls in SOLVERS.values() for check in solver_checks(cls)]
    return few(
        found, lambda case: case[0] in (EulerMaruyama, ReversibleHeun) or str(case[1]) in ("order", "dense output")
    )


@pytest.mark.parametrize(
    ("cls", "check"), laws(), ids=lambda each: each.__name__ if isinstance(each, type) else str(each)
)
def test_without_noise(cls: type[of.StochasticSolver], check: Check) -> None:
    """Without noise every solver keeps every law of solvers of ordinary equations."""
    check()


@pytest.mark.parametrize(("solver", "noise", "calculus"), pairs("diagonal", "scalar"))
def test_strong_order_on_geometric_brownian_motion(solver: Any, noise: Any, calculus: Any) -> None:
    """DX = µX dt + σX dW: errors of paths fall with the strong order that the solver states."""
    mu, sigma = 0.05, 0.5
    sde = of.SDE(lambda t, y: mu * y, lambda t, y: sigma * y, noise, calculus)
    rate = mu - sigma**2 / 2 if calculus == "ito" else mu
    columns = 2 if noise == "scalar" else 1
    y0 = torch.ones(PATHS, columns, dtype=D)
    found = strong_slope(solver, sde, y0, (PATHS, 1), lambda w: torch.exp(rate + sigma * w(1.0)).expand_as(y0))
    assert abs(found - solver.strong[noise]) < 0.1


@pytest.mark.parametrize(("solver", "noise", "calculus"), pairs("diagonal"))
def test_strong_order_on_arctan(solver: Any, noise: Any, calculus: Any) -> None:
    """X = arctan(pW + tan x₀), whose drift and noise are nonlinear: the stated strong order."""
    p = 0.5

    def drift(t: Tensor, y: Tensor) -> Tensor:
        return -(p**2) * y.sin() * y.cos() ** 3 if calculus == "ito" else torch.zeros_like(y)

    sde = of.SDE(drift, lambda t, y: p * y.cos().square(), noise, calculus)
    y0 = torch.full((PATHS, 1), 0.3, dtype=D)
    found = strong_slope(solver, sde, y0, (PATHS, 1), lambda w: torch.atan(p * w(1.0) + y0.tan()))
    assert abs(found - solver.strong[noise]) < 0.1


@pytest.mark.parametrize(("solver", "noise", "calculus"), pairs("additive"))
def test_strong_order_with_additive_noise(solver: Any, noise: Any, calculus: Any) -> None:
    """X = (x₀ + b (t + aW))/√(1 + t), and a nonlinear drift with noise that grows in time: the stated strong order."""
    a, b = 0.4, 0.3

    def drift(t: Tensor, y: Tensor) -> Tensor:
        return b / (1 + t).sqrt() - y / (2 + 2 * t)

    sde = of.SDE(drift, lambda t, y: a * b / (1 + t).sqrt() * torch.ones_like(y), noise, calculus)
    y0 = torch.full((PATHS, 1), 0.4, dtype=D)
    found = strong_slope(solver, sde, y0, (PATHS, 1), lambda w: (y0 + b * (1 + a * w(1.0))) / 2**0.5, (8, 16, 32, 64))
    assert found > solver.strong[noise] - 0.1  # some errors cancel in a linear equation
    found = strong_slope(solver, bent(noise, calculus), y0, (PATHS, 1), lambda _: bent_end(), (16, 32, 64, 128))
    assert abs(found - solver.strong[noise]) < 0.1


def bent(noise: Any, calculus: Any) -> of.SDE:
    """A nonlinear drift with noise that grows in time."""
    return of.SDE(lambda t, y: torch.sin(3 * y), lambda t, y: 0.5 * (1 + t) * torch.ones_like(y), noise, calculus)


@cache
def bent_end() -> Tensor:
    """Its ends from 0.4 by many steps; both calculi agree, as the noise does not depend on the state."""
    y0 = torch.full((PATHS, 1), 0.4, dtype=D)
    with torch.no_grad():
        sde = bent("additive", "ito")
        return of.solve(sde, y0, [0.0, 1.0], solver=ShARK(num_steps=2048), noise=motion(PATHS, 1)).y[-1]


def rotated(calculus: Any, strength: float = 0.7) -> of.SDE:
    """Two Brownian motions whose vector fields do not commute."""

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        x, z = y.unbind(-1)
        first = torch.stack((z, torch.zeros_like(x)), -1)
        second = torch.stack((torch.zeros_like(x), x), -1)
        return strength * torch.stack((first, second), -1)

    return of.SDE(lambda t, y: -0.1 * y, diffusion, "general", calculus)


@pytest.mark.parametrize(("solver", "noise", "calculus"), pairs("general"))
def test_strong_order_with_noise_that_does_not_commute(solver: Any, noise: Any, calculus: Any) -> None:
    """General noise that does not commute leaves the strong order 0.5."""
    y0 = torch.ones(PATHS, 2, dtype=D)
    found = strong_slope(solver, rotated(calculus), y0, (PATHS, 2), lambda _: rotated_end(calculus), (4, 8, 16, 32))
    assert abs(found - 0.5) < 0.1


@cache
def rotated_end(calculus: Any) -> Tensor:
    """The ends by many steps of one solver of the calculus."""
    solver = {"ito": EulerMaruyama, "stratonovich": EulerHeun}[calculus](num_steps=2**12)
    y0 = torch.ones(PATHS, 2, dtype=D)
    with torch.no_grad():
        return of.solve(rotated(calculus), y0, [0.0, 1.0], solver=solver, noise=motion(PATHS, 2)).y[-1]


def test_calculi_differ() -> None:
    """The means of geometric Brownian motion without drift are 1 (Itô) and e^(σ²/2) (Stratonovich)."""
    y0, count = torch.ones(20_000, 1, dtype=D), 20_000
    for calculus, mean, solver in (("ito", 1.0, Milstein), ("stratonovich", math.exp(0.125), StochasticHeun)):
        sde = of.SDE(lambda t, y: 0 * y, lambda t, y: 0.5 * y, "diagonal", calculus)
        y = of.solve(sde, y0, [0.0, 1.0], solver=solver(num_steps=32), noise=1, params=()).y[-1]
        assert abs(float(y.mean()) - mean) < 4 * float(y.std()) / count**0.5 + 1e-2


def ornstein_uhlenbeck(theta: float, sigma: float, noise: Any = "additive") -> of.SDE:
    return of.SDE(lambda t, y: -theta * y, lambda t, y: torch.full_like(y, sigma), noise)


def test_moments_of_ornstein_uhlenbeck() -> None:
    """Mean and variance of Euler–Maruyama's paths are those of its recursion, within 4 standard errors."""
    theta, sigma, steps, count = 1.0, 0.5, 16, 100_000
    y0, h = torch.ones(count, 1), 1 / steps
    y = of.solve(
        ornstein_uhlenbeck(theta, sigma), y0, [0.0, 1.0], solver=EulerMaruyama(num_steps=steps), noise=2, params=()
    ).y[-1]
    mean, variance = 1.0, 0.0
    for _ in range(steps):
        mean, variance = (1 - theta * h) * mean, (1 - theta * h) ** 2 * variance + sigma**2 * h
    assert abs(float(y.mean()) - mean) < 4 * (variance / count) ** 0.5
    assert abs(float(y.var()) - variance) < 4 * variance * (2 / count) ** 0.5
    assert abs(float(y.mean()) - math.exp(-theta)) > 8 * (variance / count) ** 0.5  # so the test tells them apart


def test_weak_order() -> None:
    """Euler–Maruyama's mean of geometric Brownian motion has weak order 1, on common paths."""
    sde = of.SDE(lambda t, y: y, lambda t, y: 0.1 * y)
    path, sizes = BrownianTree(3, (20_000, 1), 0.0, 1.0, dtype=D), [4, 8, 16, 32]
    y0, exact = torch.ones(20_000, 1, dtype=D), torch.exp(1 - 0.005 + 0.1 * path(1.0)).mean()
    ends = [
        of.solve(sde, y0, [0.0, 1.0], solver=EulerMaruyama(num_steps=n), noise=path, params=()).y[-1].mean()
        for n in sizes
    ]
    assert abs(slope(sizes, [abs(float(end - exact)) for end in ends]) - 1) < 0.15


class Field(of.Stochastic):
    """A small field with parameters in drift and diffusion, of every kind of noise."""

    width = 2

    def __init__(self, noise: Any, calculus: Any) -> None:
        super().__init__()
        self.noise, self.calculus = noise, calculus
        self.a = nn.Parameter(torch.tensor([0.5, -0.3], dtype=D))
        self.b = nn.Parameter(torch.tensor([0.4, 0.7], dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(self.a * y) + 0.1 * t * y.flip(-1)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        if self.noise == "additive":
            return (self.b * (1 + t)).expand_as(y)
        if self.noise == "general":
            return torch.stack((self.b * torch.cos(y), 0.3 * y.flip(-1) * self.b, 0.1 + 0 * y), -1)
        return self.b * torch.cos(y + t)


GRADIENTS: dict[str, Callable[[], of.Gradient]] = {
    "Backprop": of.Backprop,
    "Checkpointed": of.Checkpointed,
    "every=3": lambda: of.Checkpointed(every=3),
    "max_bytes": lambda: of.Checkpointed(max_bytes=200),
    "per_stage": lambda: of.Checkpointed(per_stage=True),
    "Reversible": of.Reversible,
}


def loss_of(field: Field, y0: Tensor, solver: of.Solver, gradient: of.Gradient, noise: Any) -> Tensor:
    y = of.solve(field, y0, [0.0, 0.33, 0.9], solver=solver, gradient=gradient, noise=noise).y
    return (y[1] * torch.tensor([1.0, -0.5], dtype=D)).sum() + y[2].square().sum()


@pytest.mark.parametrize(("solver", "noise", "calculus"), pairs("diagonal", "scalar", "additive", "general"))
def test_gradients_on_a_fixed_path(solver: Any, noise: Any, calculus: Any) -> None:
    """Every gradient equals Backprop's to rounding, and that equals finite differences to 1e-7, by seed and by path."""
    field, y0 = Field(noise, calculus), torch.tensor([[0.3, -0.2], [0.8, 0.1], [-0.5, 0.6]], dtype=D)
    y0.requires_grad_()
    method, inputs = solver(num_steps=8), (y0, field.a, field.b)
    exact = torch.autograd.grad(loss_of(field, y0, method, of.Backprop(), 3), inputs)
    for name, gradient in GRADIENTS.items():
        if name == "Reversible" and solver is not ReversibleHeun:
            continue
        found = torch.autograd.grad(loss_of(field, y0, method, gradient(), 3), inputs)
        for one, other in zip(found, exact, strict=True):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-11, msg=name)
    with torch.no_grad():
        for tensor, wanted in zip(inputs, exact, strict=True):
            place, eps = (0,) * tensor.dim(), 1e-5
            values = []
            for sign in (1, -1):
                tensor[place] += sign * eps
                values.append(float(loss_of(field, y0, method, of.Backprop(), 3)))
                tensor[place] -= sign * eps
            assert abs((values[0] - values[1]) / (2 * eps) - float(wanted[place])) < 1e-7


def test_gradients_of_geometric_brownian_motion() -> None:
    """∂X/∂µ and ∂X/∂σ converge with the solver's order to T X and (W − σT) X."""
    mu, sigma = (torch.tensor(value, dtype=D, requires_grad=True) for value in (0.05, 0.5))
    sde = of.SDE(lambda t, y: mu * y, lambda t, y: sigma * y)
    path, y0, sizes = BrownianTree(6, (PATHS, 1), 0.0, 1.0, dtype=D), torch.ones(PATHS, 1, dtype=D), [16, 32, 64, 128]
    w = path(1.0)
    x = torch.exp(mu - sigma**2 / 2 + sigma * w).detach()
    weight = torch.linspace(0.5, 1.5, PATHS, dtype=D)[:, None]
    for wanted, parameter in ((x, mu), ((w - sigma.detach()) * x, sigma)):
        errors = []
        for steps in sizes:
            y = of.solve(sde, y0, [0.0, 1.0], solver=Milstein(num_steps=steps), params=(mu, sigma), noise=path).y[-1]
            (found,) = torch.autograd.grad((y * weight).mean(), parameter)
            errors.append(abs(float(found - (wanted * weight).mean())))
        assert slope(sizes, errors) > 0.8


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "additive", "general"])
def test_reversible_heun_returns(noise: Any) -> None:
    """Undone step by step, 1,000 steps of the reversible Heun method return to the start to 1e-12."""
    field = Field(noise, "stratonovich")
    y0, steps = torch.tensor([[0.3, -0.2], [0.8, 0.1]], dtype=D), 1000
    path = BrownianGrid(0, {"scalar": (2, 1), "general": (2, 3)}.get(noise, (2, 2)), range(steps + 1), dtype=D)
    product = (lambda g, dw: torch.bmm(g, dw[..., None])[..., 0]) if noise == "general" else torch.mul
    with torch.no_grad():
        times = [number / steps for number in range(steps + 1)]
        path = BrownianGrid(0, path.shape, times, dtype=D)
        equation = of.engine.equation.equation.Equation(field, field.diffusion, noise, "stratonovich", path, product)
        stages = of.ReversibleHeunStages(2, equation)
        y = y0
        for start, end in pairwise(times):
            y = stages.step(start, end - start, y)
            stages.advance()
        z = stages.z
        assert z is not None
        for start, end in zip(reversed(times[:-1]), reversed(times[1:]), strict=True):
            y, z = stages.back(start, end - start, y, z)
    assert (y - y0).abs().max() < 1e-12
    assert (z - y0).abs().max() < 1e-12


def kept(gradient: of.Gradient, steps: int) -> int:
    """Bytes of all tensors that a solve keeps alive for its backward pass."""
    field, y0 = Field("diagonal", "stratonovich"), torch.zeros(100, 2, dtype=D, requires_grad=True)
    gc.collect()
    before = {id(each) for each in gc.get_objects() if issubclass(type(each), Tensor)}
    y = of.solve(field, y0, [0.0, 1.0], solver=ReversibleHeun(num_steps=steps), gradient=gradient, noise=0).y
    saved = [each for each in y.grad_fn.saved_tensors if each is not None]
    gc.collect()
    alive = {id(each): each for each in gc.get_objects() if issubclass(type(each), Tensor) and id(each) not in before}
    alive |= {id(each): each for each in saved}
    return sum(each.numel() * each.element_size() for each in alive.values())


def test_reversible_needs_no_memory_for_steps() -> None:
    """With `Reversible` a solve holds as many bytes for 400 steps as for 20; with `Checkpointed` it does not."""
    assert kept(of.Reversible(), 400) <= 1.1 * kept(of.Reversible(), 20)
    assert kept(of.Checkpointed(), 400) > 5 * kept(of.Checkpointed(), 20)


def test_noise_repeats_from_the_seed_and_differs_between_solves() -> None:
    """The same state of PyTorch's generator gives the same path, the next solve another; a given seed fixes it."""
    field, y0 = Field("diagonal", "ito"), torch.zeros(4, 2, dtype=D)

    def end(noise: int | None = None) -> Tensor:
        with torch.no_grad():
            return of.solve(field, y0, [0.0, 1.0], solver=EulerMaruyama(num_steps=8), noise=noise).y[-1]

    torch.manual_seed(5)
    first, second = end(), end()
    torch.manual_seed(5)
    assert torch.equal(end(), first)
    assert not torch.equal(first, second)
    assert torch.equal(end(3), end(3))
    assert not torch.equal(end(3), end(4))
    assert not torch.equal(end(3)[0], end(3)[1])  # samples differ


@pytest.mark.parametrize("step", [{"num_steps": 7}, {"rtol": 1e-2, "atol": 1e-2}])
def test_output_times_end_steps(step: dict[str, Any]) -> None:
    """Rows of a stochastic solve are ends of steps, and further output times leave the law of the others alone."""
    field, y0 = ornstein_uhlenbeck(1.0, 0.5), torch.ones(20_000, 1, dtype=D)
    t = [0.0, 0.111, 0.5, 1.0]
    solution = of.solve(field, y0, t, solver=ShARK(**step), noise=2, params=())
    assert solution.stats.accepted >= (9 if "num_steps" in step else 3)
    for time, y in zip(t[1:], solution.y[1:], strict=True):
        variance = 0.125 * (1 - math.exp(-2 * time))
        assert abs(float(y.mean()) - math.exp(-time)) < 4 * (variance / len(y0)) ** 0.5 + 2e-3
        assert abs(float(y.var()) / variance - 1) < 4 * (2 / len(y0)) ** 0.5 + 1e-2


def test_output_times_in_single_precision_take_no_steps_of_their_own() -> None:
    """Where output times are grid points up to rounding, the steps are those of the grid."""
    t = torch.linspace(0.0, 1.0, 41)  # float32: 0.025 is 2.5000000372e-2
    solver = EulerMaruyama(step_size=0.0125)
    stats = of.solve(ornstein_uhlenbeck(1.0, 0.5), torch.ones(3, 1), t, solver=solver, params=()).stats
    assert stats.accepted == 80
    t = 0.02 * torch.arange(300)  # 5.98 is 299.000001 steps of 0.02
    solver = EulerMaruyama(step_size=0.02)
    stats = of.solve(ornstein_uhlenbeck(1.0, 0.5), torch.ones(3, 1), t, solver=solver, params=()).stats
    assert stats.accepted == 299


@pytest.mark.parametrize(
    ("solver", "noise"), [(StochasticHeun, "diagonal"), (SPaRK, "general"), (ShARK, "additive"), (SRA1, "additive")]
)
def test_adaptive_steps(solver: Any, noise: Any) -> None:
    """Adaptive solves converge with the tolerance to the solution of many fixed steps on the same path."""
    field = Field(noise, "stratonovich")
    y0 = torch.tensor([[0.3, -0.2]], dtype=D).expand(50, 2)
    path = BrownianTree(8, (50, 3) if noise == "general" else (50, 2), 0.0, 1.0, dtype=D)
    with torch.no_grad():
        fine = of.solve(field, y0, [0.0, 1.0], solver=solver(num_steps=2**12), noise=path).y[-1]
        errors, steps = [], []
        for tolerance in (1e-1, 1e-3):
            adaptive = solver(rtol=tolerance, atol=tolerance)
            if noise == "diagonal":
                field.diffusion = lambda t, y: field.b * torch.cos(y + t)  # type: ignore[method-assign]
            found = of.solve(field, y0, [0.0, 1.0], solver=adaptive, noise=path)
            errors.append(float((found.y[-1] - fine).abs().mean()))
            steps.append(found.stats.accepted)
    assert errors[1] < 0.3 * errors[0]
    assert errors[1] < 0.03
    assert steps[1] > steps[0]


def test_rejected_ends_are_visited_again() -> None:
    """Every end of a rejected step is an end of an accepted one."""
    from odeflow.engine.methods.stochastic_control import StochasticControl

    rejected, accepted = [], []
    accepts = StochasticControl.accepts

    def noted(self: Any, *arguments: Any) -> bool:
        fine = accepts(self, *arguments)
        (accepted if fine else rejected).append(self.end)
        return fine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StochasticControl, "accepts", noted)
        field = of.SDE(lambda t, y: -y, lambda t, y: 5 * t * y.cos(), "diagonal", "stratonovich")
        of.solve(field, torch.ones(3, 1, dtype=D), [0.0, 1.0], solver=StochasticHeun(1e-2, 1e-2), noise=1, params=())
    assert rejected
    assert set(rejected) <= set(accepted)


def test_adaptive_moments() -> None:
    """Adaptive steps do not bias the law: the moments of an equation that rejects steps, one path at a time."""
    field = of.SDE(lambda t, y: -y, lambda t, y: y, "diagonal", "stratonovich")
    ends = torch.stack(
        [
            of.solve(field, torch.ones(1, 1, dtype=D), [0.0, 1.0], solver=SPaRK(0.1, 0.05), noise=seed, params=()).y[
                -1, 0
            ]
            for seed in range(300)
        ]
    )
    logs = ends.log()  # normal with mean −1 and variance 1
    assert abs(float(logs.mean()) + 1) < 4 / 300**0.5 + 0.05
    assert abs(float(logs.var()) - 1) < 4 * (2 / 300) ** 0.5 + 0.05


def test_divergence_of_two_laws_is_a_state_without_noise() -> None:
    """The rate ½‖g⁻¹(f − h)‖² along paths integrates to the divergence of two Ornstein–Uhlenbeck laws."""
    theta, other, sigma, count = 1.0, 1.8, 0.4, 40_000

    def drift(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y = state[0]
        return -theta * y, 0.5 * ((other - theta) * y[:, 0] / sigma).square()

    sde = of.SDE(drift, lambda t, state: torch.full_like(state[0], sigma), "additive")
    start = (torch.ones(count, 1), torch.zeros(count))
    y, kl = of.solve(sde, start, [0.0, 1.0], solver=EulerMaruyama(num_steps=200), noise=0, params=()).y
    square = (1 - sigma**2 / 2) * (1 - math.exp(-2)) / 2 + sigma**2 / 2  # ∫ E X² dt
    wanted = 0.5 * (other - theta) ** 2 / sigma**2 * square
    assert abs(float(kl[-1].mean()) - wanted) < 4 * float(kl[-1].std()) / count**0.5 + 5e-3 * wanted
    assert y.shape == (2, count, 1)


@pytest.mark.parametrize("gradient", [of.Backprop(), of.Checkpointed(), of.Checkpointed(every=3)])
def test_penalties_and_inputs(gradient: of.Gradient) -> None:
    """A penalty on a stochastic flow integrates the drift alone; an external input enters drift and diffusion."""
    torch.manual_seed(0)
    flow = of.Flow(
        NeuralSDE(MLP(2), Entrywise(2, 8)),
        EulerMaruyama(num_steps=9),
        gradient,
        of.FlowOptions(regularizers=[of.Kinetic(1.0)]),
    )
    y = flow(torch.ones(3, 2), noise=1)
    (y.sum() + flow.penalties["kinetic"]).backward()
    assert flow.penalties["kinetic"] > 0
    assert all(param.grad is not None and param.grad.abs().sum() > 0 for param in flow.parameters())
    inputs = of.Flow(NeuralSDE(MLP(3), MLP(3)), EulerMaruyama(num_steps=9), gradient)
    u = torch.zeros(3, 1, requires_grad=True)
    end = inputs(torch.ones(3, 2), context=u, noise=1)
    assert end.shape == (3, 2)
    (found,) = torch.autograd.grad(end.sum(), u)
    assert found.abs().sum() > 0
    with pytest.raises(of.SettingError, match="Dopri5 solves ordinary equations, and NeuralSDE has diagonal noise"):
        of.Flow(inputs.dynamics, Dopri5(), gradient)(torch.ones(3, 2), context=u)


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "additive", "general"])
def test_neural_sde(noise: Any) -> None:
    """Two dynamics make an equation of every noise; its paths have the state's shape, and gradients reach both."""
    torch.manual_seed(0)
    field = NeuralSDE(MLP(2, (8,)), MLP(6 if noise == "general" else 2, (8,)), noise, "stratonovich")
    flow = of.Flow(field, SPaRK(num_steps=6))
    y = flow.trajectory(torch.ones(5, 2), [0.0, 0.4, 1.0]).y
    y.square().mean().backward()
    assert y.shape == (3, 5, 2)
    assert all(param.grad is not None for param in field.drift.parameters())
    assert sum(float(param.grad.abs().sum()) for param in field.spread.parameters() if param.grad is not None) > 0
    rebuilt = of.load  # the specs are those of any plugin
    assert rebuilt is not None


def test_half_precision_and_autocast() -> None:
    """Under autocast drift and diffusion are evaluated in bfloat16, and the state stays in float32."""
    flow = of.Flow(NeuralSDE(MLP(2), Entrywise(2, 8)), EulerMaruyama(num_steps=5))
    with torch.autocast("cpu", torch.bfloat16):
        y = flow(torch.ones(4, 2))
    assert y.dtype == torch.float32
    assert y.isfinite().all()


REFUSALS = [
    (Dopri5(), "diagonal", "ito", r"Dopri5 solves ordinary equations, and Field has diagonal noise in the sense of Itô\. Use Milstein or EulerMaruyama"),
    (Dopri5(compile=True), "additive", "ito", r"Dopri5 solves ordinary equations, and Field has additive noise\. Use ShARK"),
    (Milstein(num_steps=2), "general", "ito", r"Milstein does not support general noise, which Field has\. Use EulerMaruyama"),
    (ShARK(), "diagonal", "stratonovich", r"ShARK does not support diagonal noise, which Field has\. Use StochasticHeun or SPaRK"),
    (EulerHeun(num_steps=2), "general", "ito", r"EulerHeun solves equations in the sense of Stratonovich; Field is in that of Itô\. Use EulerMaruyama"),
    (EulerMaruyama(num_steps=2), "general", "stratonovich", r"in the sense of Itô; Field is in that of Stratonovich\. Use SPaRK or StochasticHeun"),
]  # fmt: skip


@pytest.mark.parametrize(("solver", "noise", "calculus", "message"), REFUSALS)
def test_wrong_pairs_are_refused(solver: of.Solver, noise: Any, calculus: Any, message: str) -> None:
    """A solver refuses what it does not solve, and names one that does."""
    with pytest.raises(of.SettingError, match=message):
        of.solve(Field(noise, calculus), torch.zeros(2, 2, dtype=D), [0.0, 1.0], solver=solver)


def _of_another(entry: int, other: int, t: Tensor, y: Tensor) -> Tensor:
    """A diffusion, one entry of which is another entry of the state."""
    return torch.stack([y[:, other if number == entry else number] for number in range(y.shape[1])], 1)


def test_false_claims_about_noise_are_refused() -> None:
    """Noise declared additive must not depend on the state; diagonal noise of order 1 must commute."""
    y0 = torch.ones(3, 2)
    with pytest.raises(of.SettingError, match=r"declares additive noise, but its diffusion depends on the state"):
        of.solve(
            of.SDE(lambda t, y: y, lambda t, y: y, "additive"), y0, [0.0, 1.0], solver=ShARK(num_steps=2), params=()
        )
    for entry, other in permutations(range(3), 2):  # whichever entry depends on whichever other one
        depends = partial(_of_another, entry, other)
        with pytest.raises(of.SettingError, match="needs diagonal noise that commutes"):
            of.solve(
                of.SDE(lambda t, y: y, depends, "diagonal"), torch.ones(1, 3), [0.0, 1.0], solver=Milstein(num_steps=2)
            )
    mixed = of.SDE(lambda t, y: y, lambda t, y: y.flip(-1), "diagonal", "stratonovich")
    with pytest.raises(
        of.SettingError, match=r"Milstein needs diagonal noise that commutes, .* Use fixed steps of Sto"
    ):
        of.solve(mixed, y0, [0.0, 1.0], solver=Milstein(num_steps=2), params=())
    with pytest.raises(of.SettingError, match=r"StochasticHeun with adaptive steps needs diagonal noise that commutes"):
        of.solve(mixed, y0, [0.0, 1.0], solver=StochasticHeun(), params=())
    of.solve(mixed, y0, [0.0, 1.0], solver=StochasticHeun(num_steps=2), params=())


def test_what_noise_excludes_is_refused() -> None:
    """Densities, backward times, gradients of times, dense output, events, adjoints and modifiers say why."""
    field, y0, euler = Field("diagonal", "ito"), torch.zeros(2, 2, dtype=D), EulerMaruyama(num_steps=4)
    for gradient in (of.Adjoint(), of.InterpolatedAdjoint()):
        with pytest.raises(of.GradientError, match=r"Adjoint does not support stochastic equations; use Checkpointed"):
            of.solve(field, y0, [0.0, 1.0], solver=euler, gradient=gradient)
    with pytest.raises(
        of.GradientError, match=r"Reversible does not support solvers other than .* ReversibleHeun \(got"
    ):
        of.solve(field, y0, [0.0, 1.0], solver=euler, gradient=of.Reversible())
    with pytest.raises(of.SettingError, match=r"solved backward in time it is another one"):
        of.solve(field, y0, [1.0, 0.0], solver=euler)
    with pytest.raises(of.GradientError, match=r"no derivative with respect to time: detach t"):
        of.solve(field, y0, torch.tensor([0.0, 1.0], requires_grad=True), solver=euler)
    with pytest.raises(of.SettingError, match=r"no dense output and no events"):
        of.solve(field, y0, [0.0, 1.0], solver=euler, dense=True)
    with pytest.raises(of.SettingError, match=r"no dense output and no events"):
        of.solve(field, y0, [0.0, 1.0], solver=euler, event=of.Event(lambda t, y: y[0, 0]))
    with pytest.raises(of.SettingError, match=r"a CNF needs ordinary equations"):
        of.CNF(of.Flow(field, euler), shape=(2,))
    with pytest.raises(of.SettingError, match=r"is stochastic: its flow has no density"):
        of.Flow(field, euler).trajectory(y0, [0.0, 1.0], divergence=of.Exact())
    with pytest.raises(of.SettingError, match=r"Normed modifies a drift, and would lose the diffusion of NeuralSDE"):
        Normed(NeuralSDE(MLP(2), MLP(2)))
    with pytest.raises(of.SettingError, match=r"noise was given, but the field, a Linear, has no diffusion"):
        of.Flow(nn.Linear(2, 2), Euler(num_steps=1)).trajectory(y0.float(), [0.0, 1.0], noise=1)
    with pytest.raises(of.SettingError, match=r"EulerMaruyama has no option 'compile'"):
        EulerMaruyama(num_steps=4, compile=True)
    with pytest.raises(of.SettingError, match=r"no error estimate, so it takes fixed steps"):
        EulerMaruyama()
    with pytest.raises(of.SettingError, match=r"no step size satisfies error_per='span'"):
        of.solve(Field("scalar", "stratonovich"), y0, [0.0, 1.0], solver=StochasticHeun(error_per="span"))


@pytest.mark.parametrize(
    ("noise", "g", "message"),
    [
        ("diagonal", (2, 2, 1), r"diagonal noise must have shape \(2, 2\) for a state of \(2, 2\); got \(2, 2, 1\)"),
        ("general", (2, 2), r"general noise must have shape \(2, 2, m\) for a state of \(2, 2\); got \(2, 2\)"),
        ("additive", (2,), r"additive noise must have shape \(2, 2\) or \(2, 2, m\)"),
        ("scalar", (2, 1), r"scalar noise must have shape \(2, 2\)"),
    ],
)
def test_wrong_shapes_are_refused(noise: Any, g: tuple[int, ...], message: str) -> None:
    """A diffusion of the wrong shape is an error that names the right one."""
    calculus: Any = "ito"
    with pytest.raises(of.StateError, match=message):
        of.solve(
            of.SDE(lambda t, y: y, lambda t, y: torch.ones(g), noise, calculus),
            torch.zeros(2, 2),
            [0.0, 1.0],
            solver=EulerMaruyama(num_steps=1),
            params=(),
        )


def test_wrong_paths_and_names_are_refused() -> None:
    """A path of another shape or dtype, and unknown kinds of noise and calculi, are errors."""
    field, y0, euler = Field("diagonal", "ito"), torch.zeros(2, 2, dtype=D), EulerMaruyama(num_steps=4)
    with pytest.raises(of.StateError, match=r"must have shape \(2, 2\), torch\.float64 on cpu; got \(2, 1\)"):
        of.solve(field, y0, [0.0, 1.0], solver=euler, noise=BrownianTree(0, (2, 1), 0.0, 1.0, dtype=D))
    with pytest.raises(of.StateError, match=r"got \(2, 2\), torch\.float32"):
        of.solve(field, y0, [0.0, 1.0], solver=euler, noise=BrownianTree(0, (2, 2), 0.0, 1.0, dtype=torch.float32))
    unknown: Any = "red"
    with pytest.raises(of.SettingError, match=r"EulerMaruyama does not support red noise"):
        of.solve(Field(unknown, "ito"), y0, [0.0, 1.0], solver=euler)
    with pytest.raises(of.SettingError, match=r"diffusion must have width a multiple of 2, as the drift; got 3"):
        NeuralSDE(MLP(2), MLP(3), "general")
    with pytest.raises(of.SettingError, match=r"drift must be dynamics without noise; got NeuralSDE"):
        NeuralSDE(NeuralSDE(MLP(2), MLP(2)), MLP(2))


def test_ordinary_equations_pay_nothing() -> None:
    """An ordinary solve sees the bare field: no equation is made."""
    seen: list[type] = []

    class Spy(RK4):
        def stages(self, field: Any, y0: Tensor, quadrature: Any) -> Any:
            seen.append(type(field))
            return super().stages(field, y0, quadrature)

    of.solve(lambda t, y: -y, torch.ones(2), [0.0, 1.0], solver=Spy(num_steps=2), params=())
    assert [cls.__name__ for cls in seen] == ["SameNoise"]


def test_equal_to_torchsde() -> None:
    """On torchsde's Brownian motion, steps of Euler, Milstein, Heun and reversible Heun equal torchsde's."""
    torchsde = pytest.importorskip("torchsde")

    class Theirs(Brownian):
        """Its Brownian motion as a path."""

        def __init__(self, motion: Any) -> None:
            super().__init__(0, motion.shape, motion.dtype)
            self.motion = motion

        def __call__(self, t: Any) -> Tensor:
            return self.motion(0.0, float(t))

        def increment(self, t0: Any, t1: Any) -> Tensor:
            return self.motion(round(float(t0), 9), round(float(t1), 9))

        def increment_and_area(self, t0: Any, t1: Any) -> tuple[Tensor, Tensor]:
            raise NotImplementedError

    cases = [
        (EulerMaruyama, "ito", "euler", ("diagonal", "scalar", "additive", "general")),
        (Milstein, "ito", "milstein", ("diagonal",)),
        (Milstein, "stratonovich", "milstein", ("diagonal",)),
        (StochasticHeun, "stratonovich", "heun", ("diagonal", "general")),
        (EulerHeun, "stratonovich", "euler_heun", ("diagonal", "general")),
        (ReversibleHeun, "stratonovich", "reversible_heun", ("diagonal", "general")),
    ]
    for solver, calculus, method, noises in cases:
        for noise in noises:
            field = Field(noise, calculus)
            shape = {"scalar": (3, 1), "general": (3, 3)}.get(noise, (3, 2))

            class Problem(nn.Module):
                noise_type, sde_type = noise, calculus

                def f(self, t: Any, y: Tensor) -> Tensor:
                    return field(torch.as_tensor(t, dtype=D), y)  # noqa: B023

                def g(self, t: Any, y: Tensor) -> Tensor:
                    g = field.diffusion(torch.as_tensor(t, dtype=D), y)  # noqa: B023
                    if noise == "scalar":  # noqa: B023
                        return g[..., None]
                    return torch.diag_embed(g) if noise == "additive" else g  # noqa: B023

            motion = torchsde.BrownianInterval(0.0, 1.0, size=shape, dtype=D, entropy=3)
            y0 = torch.tensor([[0.3, -0.2], [0.8, 0.1], [-0.5, 0.6]], dtype=D)
            with torch.no_grad():
                theirs = torchsde.sdeint(
                    Problem(), y0, torch.tensor([0.0, 1.0], dtype=D), bm=motion, method=method, dt=0.125
                )
                ours = of.solve(field, y0, [0.0, 1.0], solver=solver(num_steps=8), noise=Theirs(motion)).y
            torch.testing.assert_close(ours[-1], theirs[-1], atol=1e-10, rtol=1e-10, msg=f"{method} {noise}")
