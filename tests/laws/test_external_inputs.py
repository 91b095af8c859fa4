"""Laws of flows with an external input u(t): values, orders, gradients, and what is refused."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import odeflow as of
from odeflow.paths import Constant, Function, Hermite, Linear, NaturalCubic, PiecewisePolynomial, Rectilinear
from odeflow.plugin.registry import plugins
from odeflow_solvers import RK4, AdamsBashforth, Dopri5, Heun, Kvaerno3, Rodas4, TorchDiffEq

D = torch.float64
KINDS: list[type[PiecewisePolynomial]] = [Linear, Rectilinear, Hermite, NaturalCubic]
KINKED: list[type[PiecewisePolynomial]] = [Linear, Rectilinear]
T = torch.tensor([0.0, 0.31, 0.87, 1.33, 2.0], dtype=D)
X = torch.randn(3, 5, 1, dtype=D, generator=torch.Generator().manual_seed(2))
Y0 = torch.linspace(-1, 1, 6, dtype=D).view(3, 2)


class Oscillator(nn.Module):
    """A damped spring with an external force: q″ + c q′ + k q = u, on [q, p, u]."""

    def __init__(self, c: float = 0.3, k: float = 2.0) -> None:
        super().__init__()
        self.c, self.k = (nn.Parameter(torch.tensor(value, dtype=D)) for value in (c, k))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        q, p, u = y.unbind(1)
        return torch.stack((p, u - self.c * p - self.k * q.sin(), torch.zeros_like(u)), 1)


class Spring(Oscillator):
    """The linear one."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        q, p, u = y.unbind(1)
        return torch.stack((p, u - self.c * p - self.k * q, torch.zeros_like(u)), 1)


def final(flow: of.Flow, path: of.Path | Tensor, ends: tuple[float, float] = (0.0, 2.0)) -> Tensor:
    """The state at the end of the input's interval."""
    return flow.trajectory(Y0, ends, context=path).y[-1]


def test_a_tensor_is_a_constant_path() -> None:
    """A context of either form, or of one sample for all, gives the same bits, by trajectory and by the call."""
    flow, u = of.Flow(Oscillator(), RK4(num_steps=5), options=of.FlowOptions(t1=2.0)), torch.full((3, 1), 0.4, dtype=D)
    wanted = final(flow, u)
    assert torch.equal(final(flow, Constant(u)), wanted)
    assert torch.equal(final(flow, u[:1]), wanted)
    assert torch.equal(flow(Y0, context=Constant(u)), wanted)


def test_driven_oscillator_in_closed_form() -> None:
    """A spring driven by sin ωt is the sum of its motion at rest and the steady oscillation, to 1e-8."""
    c, k, omega = 0.3, 2.0, 1.7
    path = Function(lambda t: torch.sin(omega * t)[..., None])
    found = of.Flow(Spring(c, k), Dopri5(1e-10, 1e-10)).trajectory(Y0, [0.0, 1.0, 5.0], context=path).y.detach()
    response = 1 / complex(k - omega**2, c * omega)
    rate = complex(-c / 2, math.sqrt(k - c**2 / 4))
    for row, t in enumerate((0.0, 1.0, 5.0)):
        for sample, (q, p) in enumerate(Y0.tolist()):
            q_free, p_free = q - response.imag, p - (1j * omega * response).imag
            b = (p_free - rate.real * q_free) / rate.imag
            decay = math.exp(rate.real * t)
            free = decay * (q_free * math.cos(rate.imag * t) + b * math.sin(rate.imag * t))
            steady = (response * np.exp(1j * omega * t)).imag
            assert float(found[row, sample, 0]) == pytest.approx(free + steady, abs=1e-8)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_driven_oscillator_by_scipy(kind: type[PiecewisePolynomial], own: bool, per_sample: bool) -> None:
    """Each sample follows its own input, at common times or its own, as scipy's solver between the knots does.

    Hermite, whose second derivative jumps where no step ends, keeps a little less than the tolerance.
    """
    t = T + torch.tensor([[0.0], [0.04], [-0.11]], dtype=D) if own else T
    path = kind(t, X)
    solver = Dopri5(1e-9, 1e-9, per_sample=per_sample)
    found = final(of.Flow(Oscillator(), solver), path)
    for sample in range(3):
        knots = t[sample] if own else t
        alone = kind(knots, X[sample : sample + 1])
        y, ends = Y0[sample].numpy(), [0.0, *(time for time in knots.tolist() if 0 < time < 2), 2.0]
        for start, end in pairwise(ends):

            def field(time: float, y: np.ndarray, start: float = start, end: float = end) -> list[float]:
                inside = min(max(time, math.nextafter(start, end)), math.nextafter(end, start))
                return [y[1], float(alone(torch.tensor(inside, dtype=D))) - 0.3 * y[1] - 2 * math.sin(y[0])]  # noqa: B023

            y = solve_ivp(field, (start, end), y, "RK45", rtol=1e-9, atol=1e-9).y[:, -1]
        assert found[sample].tolist() == pytest.approx(y.tolist(), abs=3e-7 if kind is Hermite else 3e-8)


ORDERS: list[tuple[Callable[..., of.Solver], int]] = [
    (Heun, 2),
    (RK4, 4),
    (Dopri5, 5),
    (Kvaerno3, 3),
    (Rodas4, 4),
    (lambda num_steps: AdamsBashforth(num_steps=num_steps, order=3), 3),
]


@pytest.mark.parametrize(("method", "order"), ORDERS, ids=["Heun", "RK4", "Dopri5", "Kvaerno3", "Rodas4", "Adams3"])
@pytest.mark.parametrize("kind", KINKED)
def test_the_order_is_kept_over_kinks_and_jumps(
    kind: type[PiecewisePolynomial], method: Callable[..., of.Solver], order: int
) -> None:
    """Steps end at the breaks, and each side has its own input."""
    path = kind(T, X)
    truth = final(of.Flow(Oscillator(), Dopri5(1e-12, 1e-12)), path)

    errors = [
        float((final(of.Flow(Oscillator(), method(num_steps=steps)), path) - truth).detach().norm())
        for steps in (20, 40)
    ]
    assert math.log2(errors[0] / errors[1]) > order - 0.5


@pytest.mark.parametrize("kind", KINKED)
def test_the_order_falls_where_breaks_are_hidden(kind: type[PiecewisePolynomial]) -> None:
    """Without a stop at the breaks a method of order 4 has order 2 over kinks, and 1 over jumps."""
    path = kind(T, X)
    truth = final(of.Flow(Oscillator(), Dopri5(1e-10, 1e-10)), path)
    errors = [
        float((final(of.Flow(Oscillator(), RK4(num_steps=steps)), Function(path)) - truth).detach().norm())
        for steps in (30, 480)
    ]
    assert math.log2(errors[0] / errors[1]) / 4 < (1.6 if kind is Rectilinear else 2.6)


@pytest.mark.parametrize("kind", KINKED)
def test_adaptive_steps_end_at_the_breaks(kind: type[PiecewisePolynomial]) -> None:
    """The solver stops at those inside the interval, besides the times of its own, and rejects fewer steps for it."""
    path = kind(T, X)
    seen: set[float] = set()

    class Seeing(Oscillator):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            seen.add(float(t))
            return super().forward(t, y)

    solver = Dopri5(1e-8, 1e-8, jump_ts=(1.7,))
    flow = of.Flow(Seeing(), solver)
    final(flow, path)
    places = [*T[1:-1].tolist(), 1.7]
    assert all(math.nextafter(place, side) in seen for place in places for side in (0.0, 2.0))
    assert not seen.intersection(places)
    assert solver.jump_ts == (1.7,)
    assert flow.stats is not None
    rejected = flow.stats.rejected
    final(flow, Function(path))
    assert rejected < flow.stats.rejected


@pytest.mark.parametrize("kind", KINDS)
def test_backward_in_time_is_the_inverse(kind: type[PiecewisePolynomial]) -> None:
    """From the end back to the start each step has the input of its own side, jumps at both ends included."""
    flow, path = of.Flow(Oscillator(), Dopri5(1e-10, 1e-10)), kind(T, X)
    y = final(flow, path)
    assert torch.allclose(flow.trajectory(y, [2.0, 0.0], context=path).y[-1], Y0, atol=1e-8)


DISCRETE = ("Backprop", "Checkpointed", "Reversible")


def derivative(flow: of.Flow, make: Callable[[Tensor], of.Path], x: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of a loss by the inputs' values, and by one parameter."""
    x = x.clone().requires_grad_()
    loss = flow.trajectory(Y0, [0.0, 0.9, 2.0], context=make(x)).y.sin().sum()
    dynamics: Any = flow.dynamics
    by_x, by_c = torch.autograd.grad(loss, (x, dynamics.c))
    return by_x, by_c


@pytest.fixture(scope="module")
def differences() -> Callable[[type[PiecewisePolynomial]], Tensor]:
    """Central differences of the discrete solution by the inputs' values."""
    known: dict[type[PiecewisePolynomial], Tensor] = {}

    def of_kind(kind: type[PiecewisePolynomial]) -> Tensor:
        if kind not in known:
            flow = of.Flow(Oscillator(), RK4(num_steps=40))

            @torch.no_grad()
            def loss(x: Tensor) -> float:
                return float(flow.trajectory(Y0, [0.0, 0.9, 2.0], context=kind(T, x)).y.sin().sum())

            unit = 1e-5 * torch.eye(X.numel(), dtype=D).view(-1, *X.shape)
            known[kind] = torch.tensor([(loss(X + step) - loss(X - step)) / 2e-5 for step in unit], dtype=D).view_as(X)
        return known[kind]

    return of_kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", plugins("gradient"))
def test_gradients_reach_the_values_of_the_path(
    name: str, kind: type[PiecewisePolynomial], differences: Callable[[type[PiecewisePolynomial]], Tensor]
) -> None:
    """∂L/∂x by every method is a central difference to 1e-7, or the method says that it cannot stop at breaks."""
    gradient = plugins("gradient")[name]()
    assert isinstance(gradient, of.Gradient)
    flow = of.Flow(Oscillator(), RK4(num_steps=40), gradient)
    if name == "Reversible" and kind in KINKED:
        with pytest.raises(of.GradientError, match="Reversible does not support jump_ts, or paths with breaks"):
            final(flow, kind(T, X))
        return
    found, _ = derivative(flow, lambda x: kind(T, x), X)
    # a continuous adjoint differs by the error of the solve, Reversible by that of its own steps
    assert torch.allclose(found, differences(kind), atol=1e-7 if name in DISCRETE[:2] else 3e-6, rtol=0)


@pytest.mark.parametrize("kind", KINKED)
@pytest.mark.parametrize("method", [of.Adjoint, of.InterpolatedAdjoint])
def test_a_backward_solver_of_its_own_stops_at_the_breaks(
    method: type[of.Adjoint | of.InterpolatedAdjoint], kind: type[PiecewisePolynomial]
) -> None:
    """The adjoint equation has the breaks of the path, whichever solver it has: the gradient is exact to its order."""

    def gradient(steps: int, hide: bool = False) -> Tensor:
        flow = of.Flow(Oscillator(), Dopri5(1e-7, 1e-7), method(solver=RK4(num_steps=steps)))
        return derivative(flow, lambda x: _hidden(kind(T, x)) if hide else kind(T, x), X)[0]

    truth, coarse, fine = gradient(80), gradient(10), gradient(20)
    assert (coarse - truth).norm() > 8 * (fine - truth).norm()
    assert (gradient(20, hide=True) - truth).norm() > 20 * (fine - truth).norm()


def _hidden(path: of.Path) -> of.Path:
    return Function(path, tensors=path.tensors)


@pytest.mark.parametrize("per_sample", [False, True])
def test_gradients_at_times_of_each_sample(per_sample: bool) -> None:
    """With per-sample times and missing values the default gradient is that of Backprop."""
    t = (T + torch.tensor([[0.0], [0.04], [-0.11]], dtype=D)).contiguous()
    mask = torch.rand(X.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    solver = Dopri5(1e-8, 1e-8, per_sample=per_sample)
    for kind in KINKED:
        found, wanted = (
            derivative(of.Flow(Oscillator(), solver, by), lambda x, kind=kind: kind(t, x, mask), X)
            for by in (of.Checkpointed(), of.Backprop())
        )
        assert all(torch.allclose(*pair, atol=1e-10) for pair in zip(found, wanted, strict=True))
        assert not found[0][~mask].any()


@pytest.mark.parametrize("kind", KINKED)
def test_gradients_of_the_times(kind: type[PiecewisePolynomial]) -> None:
    """∂y(t₁)/∂t₁ is the field there, with the input of that time, and the breaks stay where they are."""
    t = torch.tensor([0.1, 1.2], dtype=D, requires_grad=True)
    path, field = kind(T, X), Oscillator()
    y = of.Flow(field, Dopri5(1e-10, 1e-10)).trajectory(Y0, t, context=path).y[-1]
    (found,) = torch.autograd.grad(y[0, 0], t)
    end = t.detach()[1]
    slope = field(end, torch.cat((y, path(end)), 1))[0, 0]
    assert float(found[1]) == pytest.approx(float(slope.detach()), abs=1e-7)


def test_the_parameters_of_a_function_are_learned() -> None:
    """An input that is a module has a gradient: here that of the amplitude of a sine."""

    class Sine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.amplitude = nn.Parameter(torch.ones((), dtype=D))

        def forward(self, t: Tensor) -> Tensor:
            return (self.amplitude * torch.sin(t))[..., None]

    sine, flow = Sine(), of.Flow(Spring(), RK4(num_steps=20))
    final(flow, Function(sine)).sum().backward()
    with torch.no_grad():
        step = 1e-6
        sine.amplitude += step
        above = final(flow, Function(sine)).sum()
        sine.amplitude -= 2 * step
        below = final(flow, Function(sine)).sum()
    assert sine.amplitude.grad is not None
    assert float(sine.amplitude.grad) == pytest.approx(float(above - below) / (2 * step), abs=1e-7)


def test_solve_with_a_path_inside_the_field() -> None:
    """A function that closes over a path, its tensors as params and its breaks as jump_ts, is what Flow does."""
    x, oscillator = X.clone().requires_grad_(), Oscillator()
    path = Linear(T, x)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return oscillator(t, torch.cat((y, path(t)), 1))[:, :2]

    solver = Dopri5(1e-8, 1e-8, jump_ts=path.breaks)
    y = of.solve(field, Y0, [0.0, 2.0], solver=solver, params=path.tensors).y[-1]
    wanted = final(of.Flow(oscillator, Dopri5(1e-8, 1e-8)), Linear(T, x))
    assert torch.allclose(y, wanted, atol=1e-12)
    (grad,), (other,) = (torch.autograd.grad(each.sum(), x) for each in (y, wanted))
    assert torch.allclose(grad, other, atol=1e-10)


def test_float32() -> None:
    """In float32, with knots between its numbers, each side of a jump has its own input."""
    t = torch.tensor([0.0, 0.1, 0.7], dtype=D)
    path = Rectilinear(t, torch.tensor([[[0.0], [1.0], [-2.0]]]))

    class Fill(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return y[:, 1:].expand(-1, 2)

    flow = of.Flow(Fill(), RK4(num_steps=3))
    y = flow.trajectory(torch.zeros(1, 1), [0.0, 1.0], context=path).y[-1]
    assert float(y) == pytest.approx(0.6 - 2 * 0.3, abs=1e-6)


def test_inference_mode_and_regularizers() -> None:
    """A path made in inference mode serves there too, and the penalties of a flow see the input."""
    flow = of.Flow(Oscillator(), RK4(num_steps=10))
    wanted = final(flow, Hermite(T, X)).detach()
    with torch.inference_mode():
        assert torch.equal(final(flow, Hermite(T, X)), wanted)
    penalized = of.Flow(Oscillator(), RK4(num_steps=10), options=of.FlowOptions(regularizers=[of.Kinetic(1.0)]))
    final(penalized, Hermite(T, X))
    calm = penalized.penalties["kinetic"]
    final(penalized, Hermite(T, 10 * X))
    assert penalized.penalties["kinetic"] > calm


def test_what_is_refused() -> None:
    """Solvers that cannot stop, other numbers of samples and other types are errors that say what to do."""
    path = Linear(T, X)
    with pytest.raises(of.SettingError, match=r"TorchDiffEq cannot end its steps where .* at t = 0.31.* a smooth path"):
        final(of.Flow(Oscillator(), TorchDiffEq()), path)
    assert final(of.Flow(Oscillator(), TorchDiffEq("dopri5", 1e-8, 1e-8)), Hermite(T, X)).isfinite().all()
    with pytest.raises(of.SettingError, match=r"RK4: a path with breaks, as at t = 0.31, needs compile=False"):
        final(of.Flow(Oscillator(), RK4(num_steps=4, compile=True)), path)
    flow = of.Flow(Oscillator(), RK4(num_steps=4))
    with pytest.raises(of.StateError, match="the context has 2 samples and the state 3"):
        final(flow, Linear(T, X[:2]))
    wrong: Any = [1.0]
    with pytest.raises(of.SettingError, match="context"):
        final(flow, wrong)
    with pytest.raises(of.SettingError, match="strictly increasing"):
        flow.trajectory(Y0, [0.0, 0.0], context=path)


class _Doubled(of.Dynamics):
    """dy/dt = −y + u² with an encoder and a constant of its own, from which an input may be computed."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 2
        self.u, self.encoder = nn.Parameter(torch.tensor([[0.3]], dtype=D)), nn.Linear(1, 1, dtype=D)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cat((-y[:, :1] + y[:, 1:].square(), torch.zeros_like(y[:, 1:])), 1)


def test_inputs_of_the_dynamics_own() -> None:
    """A parameter of the dynamics that is the input has its gradient once; what it computes is refused in words."""
    y0 = torch.ones(3, 1, dtype=D)
    found = {}
    for gradient in (of.Backprop(), of.Checkpointed(), of.Reversible()):
        torch.manual_seed(0)
        field = _Doubled()
        flow = of.Flow(field, Dopri5(1e-9, 1e-9), gradient)
        flow.trajectory(y0, [0.0, 1.0], context=field.u).y[-1].sum().backward()
        assert field.u.grad is not None
        found[gradient] = float(field.u.grad)
        for context in (field.u + y0, field.encoder(y0)):
            if isinstance(gradient, of.Backprop):
                flow.trajectory(y0, [0.0, 1.0], context=context).y[-1].sum().backward()
            else:
                with pytest.raises(of.GradientError, match="compute the context by a module outside of"):
                    flow.trajectory(y0, [0.0, 1.0], context=context)
    wanted = 3 * 2 * 0.3 * (1 - math.exp(-1))
    assert list(found.values()) == pytest.approx([wanted] * 3, rel=1e-7)
