"""Laws of implicit solvers: stiff problems, exact gradients, Newton's iteration."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import Tensor, nn

import odeflow as of
from choice import few
from equations import after_the_jump, jumping, van_der_pol
from odeflow.engine.equation.jacobian import Jacobian
from odeflow.engine.tape import Observer, Tape
from odeflow.plugin.registry import look_up, plugins

D = torch.float64
IMPLICIT = ["ImplicitEuler", "ImplicitMidpoint", "Trapezoid", "Kvaerno3", "Kvaerno5", "Rodas4"]


def robertson(t: Tensor, y: Tensor) -> Tensor:
    """A chemical reaction with rates from 0.04 to 3e7 (Hairer & Wanner II, IV.10)."""
    a, b, c = y.unbind(-1)
    slow, fast = -0.04 * a + 1e4 * b * c, 3e7 * b**2
    return torch.stack((slow, -slow - fast, fast), -1)


def hires(t: Tensor, y: Tensor) -> Tensor:
    """High irradiance responses of photomorphogenesis, eight equations (Hairer & Wanner II, IV.10)."""
    a, b, c, d, e, f, g, h = y.unbind(-1)
    both = 280 * f * h - 1.81 * g
    return torch.stack(
        (
            -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
            1.71 * a - 8.75 * b,
            -10.03 * c + 0.43 * d + 0.035 * e,
            8.32 * b + 1.71 * c - 1.12 * d,
            -1.745 * e + 0.43 * f + 0.43 * g,
            -280 * f * h + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
            both,
            -both,
        ),
        -1,
    )


PROBLEMS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], list[float], float, float]] = {
    "Robertson": (robertson, [1.0, 0.0, 0.0], 1e4, 1e-6),
    "Van der Pol": (van_der_pol(1000), [2.0, 0.0], 1000.0, 1.0),
    "HIRES": (hires, [1.0, 0, 0, 0, 0, 0, 0, 0.0057], 321.8122, 1e-2),
}
"""Field, initial state, last time, absolute tolerance as part of the relative one."""


def by_radau(name: str, rtol: float) -> tuple[Tensor, int]:
    """(the state at the end, number of steps) by scipy."""
    field, y0, t1, part = PROBLEMS[name]

    def flat(t: float, y: np.ndarray) -> np.ndarray:
        return field(torch.tensor(t), torch.tensor(y)).numpy()

    solution = scipy.integrate.solve_ivp(flat, (0, t1), y0, "Radau", rtol=rtol, atol=rtol * part)
    return torch.tensor(solution.y[:, -1]), len(solution.t) - 1


@pytest.mark.parametrize("name", PROBLEMS)
def test_stiff_problems_agree_with_radau(name: str) -> None:
    """At 1e-8 Kvaerno5 ends where scipy's Radau does, to 1e-6 of the state, in at most as many steps."""
    field, y0, t1, part = PROBLEMS[name]
    wanted, steps = by_radau(name, 1e-8)
    with torch.no_grad():
        solver = look_up("solver", "Kvaerno5")(1e-8, 1e-8 * part)
        solution = of.solve(field, torch.tensor([y0], dtype=D), [0.0, t1], solver=solver)
    assert float((solution.y[-1, 0] - wanted).abs().max() / wanted.abs().max()) < 1e-6
    assert solution.stats.accepted < steps


@pytest.mark.parametrize("solver", ["Kvaerno3", "Rodas4"])
def test_other_solvers_of_stiff_problems(solver: str) -> None:
    """The lower orders solve HIRES at 1e-4 within 100 tolerances, where an explicit solver fails and names one."""
    field, y0, t1, part = PROBLEMS["HIRES"]
    wanted, start = by_radau("HIRES", 1e-9)[0], torch.tensor([y0], dtype=D)
    with torch.no_grad():
        end = of.solve(field, start, [0.0, t1], solver=look_up("solver", solver)(1e-4, 1e-4 * part)).y[-1, 0]
        assert float((end - wanted).abs().max()) < 1e-2
        with pytest.raises(of.SolveError, match=r"The problem is stiff.*Use an implicit solver, such as Kvaerno5"):
            of.solve(field, start, [0.0, t1], solver=look_up("solver", "Dopri5")(max_steps=200))


class Decay(nn.Module):
    """A stiff field with parameters, in which samples have nothing to do with each other, or influence each other."""

    def __init__(self, coupled: bool = False) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([-0.5, -40.0], dtype=D))
        self.mix = nn.Parameter(torch.tensor([[0.1, 0.7], [-0.4, 0.2]], dtype=D))
        self.coupled = coupled

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        drive = y.mean(0) if self.coupled else y
        return self.rates * y * (1 + 0.2 * y**2) + torch.sin(t) * torch.tanh(drive @ self.mix)


def solver_of(name: str) -> of.Solver:
    """A solver of three fixed steps, so that finite differences see the same steps."""
    cls = look_up("solver", name)
    return cls(num_steps=3, **({"newton_tol": 1e-13} if issubclass(cls, of.ImplicitRungeKutta) else {}))


@pytest.mark.parametrize("name", few(IMPLICIT, ["ImplicitEuler", "Kvaerno3", "Rodas4"]))
def test_gradients_where_samples_influence_each_other(name: str) -> None:
    """At coarse steps Backprop's gradients are central differences to 1e-7, and Checkpointed's are Backprop's."""
    field, solver = Decay(coupled=True), solver_of(name)
    y0 = torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.2, -1.0]], dtype=D, requires_grad=True)
    t = torch.tensor([0.1, 0.7, 1.3], dtype=D)
    variables = [y0, field.rates, field.mix]

    def loss(gradient: of.Gradient) -> Tensor:
        y = of.solve(field, y0, t, solver=solver, gradient=gradient).y
        return (torch.sin(y) * torch.linspace(-1, 2, y.numel(), dtype=D).view_as(y)).sum()

    found = torch.autograd.grad(loss(of.Backprop()), variables)
    again = torch.autograd.grad(loss(of.Checkpointed()), variables)
    for one, other, variable in zip(found, again, variables, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)
        with torch.no_grad():
            entry, total = variable.view(-1), 0.0
            for offset, weight in {1: 8, -1: -8, 2: -1, -2: 1}.items():
                entry[1] += offset * 1e-3
                total += weight * float(loss(of.Backprop())) / 12e-3
                entry[1] -= offset * 1e-3
        assert total == pytest.approx(float(one.view(-1)[1]), rel=1e-7)


@pytest.mark.parametrize("name", ["ImplicitEuler", "Kvaerno3", "Rodas4"])
def test_adjoint_and_gradients_of_times(name: str) -> None:
    """Adjoint converges to the exact gradient, which Backprop and Checkpointed give for the times too."""
    field = Decay()
    y0 = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=D, requires_grad=True)
    t = torch.tensor([0.0, 0.1], dtype=D, requires_grad=True)
    cls = look_up("solver", name)

    def found(solver: of.Solver, gradient: of.Gradient) -> list[Tensor]:
        end = of.solve(field, y0, t, solver=solver, gradient=gradient).y[-1]
        return list(torch.autograd.grad(end.square().sum(), [y0, t, field.rates, field.mix]))

    truth = found(look_up("solver", "Dopri5")(1e-10, 1e-10), of.Backprop())
    solver = cls(num_steps=50) if name == "ImplicitEuler" else cls(1e-4, 1e-5)
    for gradient in (of.Backprop(), of.Checkpointed(), of.Adjoint()):
        for value, true in zip(found(solver, gradient), truth, strict=True):
            assert float((value - true).norm() / true.norm()) < (0.1 if name == "ImplicitEuler" else 2e-3)


def test_stiff_gradient_agrees_with_finite_differences() -> None:
    """The gradient of Robertson's end by its rates and start is that of finite differences to 1e-5."""
    rates = torch.tensor([0.04, 1e4, 3e7], dtype=D, requires_grad=True)

    def field(t: Tensor, y: Tensor) -> Tensor:
        a, b, c = y.unbind(-1)
        slow, fast = -rates[0] * a + rates[1] * b * c, rates[2] * b**2
        return torch.stack((slow, -slow - fast, fast), -1)

    def end(gradient: of.Gradient) -> Tensor:
        solver = look_up("solver", "Kvaerno5")(1e-9, 1e-13)
        y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=D)
        return of.solve(field, y0, [0.0, 1.0], solver=solver, gradient=gradient, params=[rates]).y[-1, 0, 2]

    (found,) = torch.autograd.grad(end(of.Checkpointed()), rates)
    for number in range(3):
        values: list[float] = []
        for sign in (1, -1):
            with torch.no_grad():
                kept = rates[number].clone()
                rates[number] *= 1 + sign * 1e-3
                values.append(float(end(of.Checkpointed())))
                rates[number] = kept
        difference = (values[0] - values[1]) / (2e-3 * rates[number].item())
        assert float(found[number]) == pytest.approx(difference, rel=1e-5)


def test_jacobians_are_found_in_blocks() -> None:
    """A row for each number of a sample where samples are independent, of the whole state where they are not."""
    y = torch.randn(5, 2, dtype=D, generator=torch.Generator().manual_seed(0))
    for coupled, size in {False: 2, True: 10}.items():
        field = Decay(coupled)
        linear = Jacobian().at(field, 0.3, y)
        assert linear.blocks.shape == (10 // size, size, size)
        full = torch.func.jacrev(lambda each, field=field: field(torch.tensor(0.3), each))(y).view(10, 10)
        assert torch.allclose(torch.block_diag(*linear.blocks), full, atol=1e-12)
        residual = torch.randn(5, 2, dtype=D)
        wanted = torch.linalg.solve(torch.eye(10, dtype=D) - 0.1 * full, residual.view(-1))
        assert torch.allclose(linear.factors(0.1).solve(residual).reshape(-1), wanted)


def scales(rate: float, omega: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A fast decay beside a rotation at the rate ω, of which it is independent."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack((-rate * (y[:, 0] - 1), omega * y[:, 2], -omega * y[:, 1]), 1)

    return field


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(("dtype", "rate"), [(D, 1e6), (D, 1e12), (torch.float32, 1e6)])
def test_weak_couplings_beside_fast_rates_are_seen(dtype: torch.dtype, rate: float, graph: bool) -> None:
    """However fast one number changes, two others that depend on each other are in one block."""
    weak = scales(rate, torch.tensor(1e-3, dtype=dtype))

    def field(t: Tensor, y: Tensor) -> Tensor:
        return weak(t, y) if graph else weak(t, y).detach()

    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 300):  # a single block, more numbers than samples, and the reverse
        y = torch.randn(count, 3, dtype=dtype, generator=generator)
        linear = Jacobian().at(field, 0.0, y)
        assert linear.blocks.shape == (count, 3, 3)
        rotation = linear.blocks[:, 1:, 1:]
        assert torch.allclose(rotation.diagonal(dim1=1, dim2=2), torch.zeros(()).to(y))
        assert (rotation[:, [0, 1], [1, 0]] != 0).all()


def test_couplings_that_begin_later_are_seen() -> None:
    """Neighbours that depend on each other from some time on: at once if they do so strongly, otherwise soon."""
    y = torch.randn(8, 2, dtype=D, generator=torch.Generator().manual_seed(0))
    partner = torch.arange(8) ^ 1
    for strength, most in ((1e-2, 1), (1e-9, 3)):

        def field(t: Tensor, y: Tensor, strength: float = strength) -> Tensor:
            return -y + strength * (t > 0.5) * y[partner]

        for before in range(1, 5):
            jacobian = Jacobian()
            shapes = [jacobian.at(field, 0.0, y).blocks.shape for _ in range(before)]
            assert shapes == [(8, 2, 2)] * before
            assert [jacobian.at(field, 1.0, y).blocks.shape for _ in range(most)][-1] == (2, 8, 8)


@pytest.mark.parametrize(
    ("name", "tolerance", "per_sample"),
    [
        ("Kvaerno3", 1e-5, False),
        ("Kvaerno5", 1e-7, False),
        ("Kvaerno5", 1e-7, True),
        ("Rodas4", 1e-7, False),
        ("Rodas4", 1e-7, True),
    ],
)
def test_gradients_beside_fast_rates(name: str, tolerance: float, per_sample: bool) -> None:
    """The derivative by a slow rate is that of the solution, whatever a fast number, or another sample, does."""
    omega = torch.tensor(1.3, dtype=D, requires_grad=True)
    solver = look_up("solver", name)(tolerance, tolerance, per_sample=per_sample)
    y0 = torch.tensor([[1.0, 1.0, 0.2], [0.0, 0.5, -0.3]], dtype=D)
    rates = torch.tensor([1e6, 1.0], dtype=D)

    def field(t: Tensor, y: Tensor) -> Tensor:
        rate = rates[:, None] if len(y) == 2 else rates[1:, None]
        return torch.cat((-rate * (y[:, :1] - 1), omega * y[:, 2:], -omega * y[:, 1:2]), 1)

    solution = of.solve(field, y0, [0.0, 2.0], solver=solver, params=(omega,))
    turned = 2 * omega.detach()
    for row, (_, a, b) in enumerate(y0.tolist()):
        (found,) = torch.autograd.grad(solution.y[-1, row, 1], omega, retain_graph=True)
        wanted = 2 * (-a * turned.sin() + b * turned.cos())
        assert float(found) == pytest.approx(float(wanted), abs=100 * tolerance)
    assert solution.stats.accepted < 200


def test_a_field_without_graph_is_differentiated_by_differences() -> None:
    """A field that detaches its value has a Jacobian all the same."""
    y = torch.randn(5, 2, dtype=D)
    exact, found = (Jacobian().at(each, 0.3, y) for each in (Decay(), lambda t, y: Decay()(t, y).detach()))
    assert torch.allclose(exact.blocks, found.blocks, atol=1e-5)


def test_convergence_failures() -> None:
    """Where Newton's iteration fails, equal steps end in an error, and an adaptive solver takes smaller ones."""

    def cliff(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(y > 0, torch.sqrt(y.clamp(min=0)), torch.nan) * -3

    y0 = torch.ones(1, 1, dtype=D)
    with pytest.raises(of.SolveError, match=r"Newton's iteration did not converge at t = \S+ with steps of 1: take sm"):
        of.solve(cliff, y0, [0.0, 1.0], solver=look_up("solver", "ImplicitEuler")(num_steps=1), params=())
    kvaerno5 = look_up("solver", "Kvaerno5")(1e-6, 1e-8, first_step=0.5)
    solution = of.solve(cliff, y0, [0.0, 0.5], solver=kvaerno5, params=())
    assert solution.stats.rejected > 0
    assert float(solution.y[-1]) == pytest.approx(0.0625, abs=1e-5)


def test_second_derivatives_are_refused() -> None:
    """Implicit steps are differentiated once; more is refused with what to do instead."""
    y0 = torch.ones(1, 2, dtype=D, requires_grad=True)
    y = of.solve(
        Decay(), y0, [0.0, 1.0], solver=look_up("solver", "ImplicitEuler")(num_steps=2), gradient=of.Backprop()
    ).y
    with pytest.raises(of.GradientError, match=r"can be differentiated once.* explicit solver such as Dopri5"):
        torch.autograd.grad(y.sum(), y0, create_graph=True)


def test_senseless_methods_are_refused() -> None:
    """A tolerance of 0, an implicit tableau of an explicit method, and digits without their order are refused."""
    for name in ("Trapezoid", "Kvaerno5"):
        options = {"num_steps": 1} if name == "Trapezoid" else {}
        with pytest.raises(of.SettingError, match="newton_tol must be positive and below 1; got 0"):
            look_up("solver", name)(newton_tol=0.0, **options)
    with pytest.raises(of.SettingError, match="Wrong is explicit, its tableau is not"):
        type("Wrong", (of.RungeKutta,), {"tableau": look_up("solver", "Trapezoid").tableau})
    with pytest.raises(of.TableauError, match=r"row 0 of a must have 0 or, with the diagonal, 1 entries"):
        of.Tableau(order=1, c=(1,), a=((0.5, 0.5),), b=(1,), implicit=True)
    rodas = vars(look_up("solver", "Rodas4").tableau)
    given = {name: rodas[name] for name in of.RosenbrockTableau.__dataclass_fields__}
    with pytest.raises(of.TableauError, match=r"order 1 needs Σb = 1, with α or β = α \+ γ for A"):
        of.RosenbrockTableau(**{**given, "gamma": 0.26})
    assert {"Rosenbrock", "ImplicitRungeKutta", "Multistep", "Symplectic"}.isdisjoint(plugins("solver"))


class TestStepControl:
    """The options of steps, which the implicit families share with the explicit ones."""

    @staticmethod
    def jumping(t: Tensor, y: Tensor) -> Tensor:
        """It jumps at t = 1, where it belongs to neither side."""
        return torch.where(t == 1, torch.nan, jumping()(t, y))

    @pytest.mark.parametrize("name", IMPLICIT)
    def test_a_step_ends_where_the_field_jumps(self, name: str) -> None:
        """With jump_ts a step ends at the jump itself, and the field, nan there, is evaluated on either side of it."""
        cls = look_up("solver", name)
        steps = {"rtol": 1e-5, "atol": 1e-5} if cls.error_order is not None else {"step_size": 0.023}
        tape = Tape()
        with torch.no_grad():
            times = torch.tensor([0.0, 1.7], dtype=D)
            solver = cls(**steps, jump_ts=(1.0, 7.0))
            solution = solver.integrate(self.jumping, torch.ones(2, 1, dtype=D), times, Observer(tape=tape))
        assert 1.0 in {segment.span[1] for segment in tape.segments if segment.span}
        allowed = {1: 0.1, 2: 1e-3}.get(cls.order, 1e-4)
        assert float(solution.y[-1, 0]) == pytest.approx(float(after_the_jump(torch.ones(()), 1.7)), abs=allowed)
        assert solution.stats.rejected <= 3

    @pytest.mark.parametrize("name", few(["Trapezoid", "Kvaerno5", "Rodas4"], ["Trapezoid"]))
    def test_gradients_across_a_jump(self, name: str) -> None:
        """∂L/∂y₀ and ∂L/∂t are those of the solution; Checkpointed reruns each step on its side of the jump."""
        cls = look_up("solver", name)
        tolerance = 1e-4 if name == "Rodas4" else 1e-5  # whose stages take longest to differentiate
        steps = {"rtol": tolerance, "atol": tolerance} if cls.error_order is not None else {"num_steps": 150}
        found: list[list[Tensor]] = []
        for gradient in (of.Backprop(), of.Checkpointed(), of.Adjoint()):
            y0 = torch.ones(1, 1, dtype=D, requires_grad=True)
            t = torch.tensor([0.0, 1.6], dtype=D, requires_grad=True)
            solver = cls(**steps, jump_ts=(1.0,))
            end = of.solve(self.jumping, y0, t, solver=solver, gradient=gradient, params=()).y[-1]
            found.append(list(torch.autograd.grad(end.sum(), (y0, t))))
            assert float(found[-1][0]) == pytest.approx(math.exp(2 - 3), rel=1e-3)
            assert found[-1][1].tolist() == pytest.approx([-2 * math.exp(-1), -5 * float(end.detach())], rel=1e-3)
        for one, other in zip(*found[:2], strict=True):
            assert torch.allclose(one, other, rtol=1e-10)

    def test_the_derivative_by_time_keeps_to_its_side(self) -> None:
        """A field without forward mode is differentiated by differences that do not reach over the jump."""

        class Opaque(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, t: Tensor) -> Tensor:
                return torch.where(t > 1, 100.0, t**2)

        y0, window = torch.zeros(1, 1, dtype=D), (0.0, math.nextafter(1.0, 0.0))
        slope = Jacobian().by_time(lambda t, y: Opaque.apply(t) + 0 * y, window[1], y0, 1.0, window)
        assert float(slope) == pytest.approx(2, rel=1e-4)

    @pytest.mark.parametrize("name", ["Kvaerno3", "Kvaerno5", "Rodas4"])
    def test_pi_rejects_no_more_steps(self, name: str) -> None:
        """On Van der Pol's oscillator with μ = 100 PI rejects fewer steps than I, and ends as near to the truth."""
        ends: dict[str, Tensor] = {}
        rejected: dict[str, int] = {}
        for controller in ("I", "PI"):
            solver = look_up("solver", name)(1e-3, 1e-3, controller=controller)
            with torch.no_grad():
                solution = of.solve(van_der_pol(100), torch.tensor([[2.0, 0.0]], dtype=D), [0.0, 60.0], solver=solver)
            ends[controller], rejected[controller] = solution.y[-1], solution.stats.rejected
        assert rejected["PI"] <= rejected["I"]
        assert torch.allclose(ends["PI"], ends["I"], atol=0.1)

    def test_a_sample_cannot_hide_among_others(self) -> None:
        """With norm="max_sample" a hard sample among easy ones makes the steps smaller."""
        speeds = torch.linspace(0, 1, 50, dtype=D)[:, None] ** 40 * 9

        def turning(t: Tensor, y: Tensor) -> Tensor:
            return torch.stack((y[:, 1], -y[:, 0]), 1) * speeds

        y0 = torch.tensor([[0.0, 1.0]], dtype=D).expand(50, 2).contiguous()
        for name in ("Kvaerno5", "Rodas4"):
            errors: dict[str, float] = {}
            for norm in ("rms", "max_sample"):
                y = of.solve(
                    turning, y0, [0.0, 1.0], solver=look_up("solver", name)(1e-3, 1e-3, norm=norm), params=()
                ).y
                errors[norm] = float((y[-1, -1] - torch.tensor([math.sin(9), math.cos(9)], dtype=D)).norm())
            assert errors["max_sample"] < errors["rms"] / 2
