"""Laws of every registered solver: order, time reversal, agreement with reference libraries."""

import math

import pytest
import scipy.integrate
import torch
from torch import Tensor

import odeflow as of
from odeflow.engine.loop.stepper import AdaptiveStepper, FixedStepper
from odeflow.engine.methods.implicit import DiagonallyImplicit
from odeflow.engine.methods.runge_kutta import ExplicitRungeKutta
from odeflow.plugin.registry import look_up, plugins

FIXED = [
    name
    for name, cls in plugins("solver").items()
    if issubclass(cls, FixedStepper) and not issubclass(cls, of.Symplectic)  # which solve other equations
]
ADAPTIVE = [name for name, cls in plugins("solver").items() if issubclass(cls, AdaptiveStepper)]
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


def riccati(t: Tensor, y: Tensor) -> Tensor:
    """y′ = −2ty², whose solution from y(0) = 1 is 1/(1 + t²): nonlinear, and dependent on time."""
    return -2 * t * y**2


def error_at_end(solver: of.Solver, t1: float = 2.0, t0: float = 0.0) -> float:
    y0 = torch.full((1,), 1 / (1 + t0**2), dtype=D)
    solution = of.solve(riccati, y0, [t0, t1], solver=solver, params=())
    return abs(float(solution.y[-1]) - 1 / (1 + t1**2))


def forced(cls: type[of.Solver], h: float) -> of.Solver:
    """A solver whose steps are of size h, whatever the error."""
    if issubclass(cls, FixedStepper):
        return cls(step_size=h)
    newton = {"newton_tol": 1e-17} if issubclass(cls, of.AdaptiveImplicitRungeKutta) else {}
    return cls(rtol=0.9, atol=1e3, first_step=h, max_step=h, **newton)


def dense_order(cls: type[of.Solver]) -> int:
    """Order of the interpolant: a Runge–Kutta method's own, or cubic Hermite's."""
    runge_kutta = issubclass(cls, ExplicitRungeKutta | DiagonallyImplicit)
    return cls.tableau.interpolation_order if runge_kutta else min(cls.order, 3)


def steps_above_rounding(order: int) -> list[float]:
    """Three sizes, each half the one before, at which a method of this order is less exact than float64."""
    largest = 0.025 if order <= 5 else 0.3
    return [largest, largest / 2, largest / 4]


def slope(errors: list[float]) -> float:
    """Of log error against log step, the steps halving each time."""
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


@pytest.mark.parametrize("name", FIXED)
def test_order_of_fixed_steps(name: str) -> None:
    """The error falls as the step size to the power of the order that is claimed, within 0.3."""
    cls = look_up("solver", name)
    errors = [error_at_end(cls(num_steps=count), t0=-2, t1=1) for count in (40, 80, 160, 320)]
    assert slope(errors) == pytest.approx(cls.order, abs=0.3)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_order_of_adaptive_solvers_at_forced_steps(name: str) -> None:
    """With the step size held fixed by its bounds, an adaptive pair has the order of its higher solution."""
    cls = look_up("solver", name)
    coarser = 2 if issubclass(cls, of.AdaptiveImplicitRungeKutta) else 1  # Newton's iteration rounds, too
    errors = [error_at_end(forced(cls, coarser * h), t0=-2, t1=1) for h in steps_above_rounding(cls.order)]
    assert slope(errors) == pytest.approx(cls.order, abs=0.3)


@pytest.mark.parametrize("name", [name for name in (*FIXED, *ADAPTIVE) if not name.startswith("Adams")])
def test_order_of_dense_output(name: str) -> None:
    """Inside the steps the error falls as fast as the interpolant's order allows: a step's error is one order higher.

    The whole solve's error stays one of the method's order, so that dense output one order lower costs nothing.
    """
    cls = look_up("solver", name)
    order = min(cls.order, dense_order(cls) + 1)
    errors: list[float] = []
    for h in (0.2, 0.1, 0.05):
        places = (torch.arange(round(2 / h), dtype=D)[:, None] + torch.tensor([0.2, 0.45, 0.7], dtype=D)).flatten() * h
        t = torch.cat((torch.zeros(1, dtype=D), places, torch.full((1,), 2.0, dtype=D)))
        solution = of.solve(riccati, torch.ones(1, dtype=D), t, solver=forced(cls, h), params=())
        assert solution.stats.accepted == round(2 / h)
        errors.append(float((solution.y[:, 0] - 1 / (1 + t**2)).abs().max()))
    assert slope(errors) > order - 0.3


@pytest.mark.parametrize("name", SAME_IN_TORCHDIFFEQ)
def test_a_step_is_torchdiffeqs(name: str, pendulum: torch.nn.Module) -> None:
    """One step of a method that torchdiffeq has too leads to the same state."""
    cls, method, h = look_up("solver", name), SAME_IN_TORCHDIFFEQ[name], 0.3
    y0 = torch.randn(5, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    options = {"step_size": h} if name in FIXED else {"first_step": torch.tensor(h, dtype=D)}
    theirs = look_up("solver", "TorchDiffEq")(method, 0.9, 1e3, options)
    with torch.no_grad():
        ours, wanted = (of.solve(pendulum, y0, [0.2, 0.2 + h], solver=each) for each in (forced(cls, h), theirs))
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


@pytest.mark.parametrize(
    ("name", "tolerance"), [(name, each) for name in ADAPTIVE for each in tolerances(look_up("solver", name))]
)
def test_tolerance_is_proportional_to_error(name: str, tolerance: float) -> None:
    """The error at the end is within 100 tolerances."""
    assert error_at_end(look_up("solver", name)(rtol=tolerance, atol=tolerance)) < 100 * tolerance


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


def all_solvers() -> list[of.Solver]:
    """One of each, at settings that solve to about 1e-9."""
    fixed = [look_up("solver", name)(num_steps=400) for name in FIXED if look_up("solver", name).order >= 4]
    adaptive = [look_up("solver", name)(1e-9, 1e-10) for name in ADAPTIVE if look_up("solver", name).order >= 4]
    return [*fixed, *adaptive, look_up("solver", "TorchDiffEq")("dopri5", 1e-9, 1e-10)]


@pytest.mark.parametrize("solver", all_solvers(), ids=lambda solver: type(solver).__name__)
class TestEverySolver:
    def test_time_reversal(self, solver: of.Solver, pendulum: torch.nn.Module) -> None:
        """Forward, then back in time from where it led, returns to the start."""
        y0 = torch.randn(4, 3, dtype=D)
        t = torch.tensor([0.5, 2.0], dtype=D)
        with torch.no_grad():
            end = of.solve(pendulum, y0, t, solver=solver).y[-1]
            back = of.solve(pendulum, end, t.flip(0), solver=solver).y[-1]
        assert torch.allclose(back, y0, atol=1e-7)

    def test_output_times_do_not_change_the_solution(self, solver: of.Solver, pendulum: torch.nn.Module) -> None:
        """Any number of output times, in either direction of time, shows the same trajectory."""
        y0 = torch.randn(4, 3, dtype=D)
        many = torch.linspace(2, -1, 31, dtype=D)
        with torch.no_grad():
            dense = of.solve(pendulum, y0, many, solver=solver).y
            for number in (1, 10, 30):
                alone = of.solve(pendulum, y0, many[[0, number]], solver=solver).y[-1]
                assert torch.allclose(dense[number], alone, atol=1e-6)

    def test_tuple_state_is_the_same_as_a_tensor(self, solver: of.Solver, coupled: torch.nn.Module) -> None:
        """A tuple of tensors is solved as the concatenation of its leaves, and comes back in their shapes."""
        state = (torch.randn(4, 3, dtype=D), torch.randn(4, dtype=D))
        packed = torch.cat([leaf.flatten() for leaf in state])

        def flat(t: Tensor, y: Tensor) -> Tensor:
            return torch.cat([leaf.flatten() for leaf in coupled(t, (y[:12].view(4, 3), y[12:]))])

        with torch.no_grad():
            first, second = of.solve(coupled, state, [0.0, 0.4, 1.0], solver=solver).y
            whole = of.solve(flat, packed, [0.0, 0.4, 1.0], solver=solver).y
        assert first.shape == (3, 4, 3)
        assert second.shape == (3, 4)
        assert torch.equal(torch.cat([first.flatten(1), second], 1), whole)

    def test_values_do_not_depend_on_autograd(self, solver: of.Solver, pendulum: torch.nn.Module) -> None:
        """With and without autograd the same trajectory is computed, up to rounding."""
        y0 = torch.randn(4, 3, dtype=D)
        traced = of.solve(pendulum, y0, [0.0, 0.3, 1.0], solver=solver, gradient=of.Backprop()).y
        with torch.no_grad():
            values = of.solve(pendulum, y0, [0.0, 0.3, 1.0], solver=solver).y
        assert torch.allclose(traced, values, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype_is_kept_and_the_start_is_the_first_row(self, solver: of.Solver, dtype: torch.dtype) -> None:
        """The solution has the state's dtype, and begins with the state itself."""
        if dtype == torch.float32 and not isinstance(solver, FixedStepper):
            solver = type(solver)(rtol=1e-5, atol=1e-6)
        y0 = torch.ones(3, 1, dtype=dtype)
        solution = of.solve(riccati, y0, torch.tensor([0.0, 1.0]), solver=solver, params=())
        assert solution.y.dtype == dtype
        assert torch.equal(solution.y[0], y0)
        assert float(solution.y[-1, 0]) == pytest.approx(0.5, abs=1e-4)


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


@pytest.mark.parametrize("name", [*FIXED, *ADAPTIVE])
def test_empty_batches(name: str) -> None:
    """A batch of no samples is solved, by every gradient."""
    cls = look_up("solver", name)
    solver = cls(num_steps=2) if name in FIXED else cls()
    y = of.solve(riccati, torch.ones(0, 3, requires_grad=True), [0.0, 1.0], solver=solver, params=()).y
    assert y.shape == (2, 0, 3)
    y.sum().backward()


def test_step_bounds_are_kept() -> None:
    """max_step bounds every step, and first_step is taken if it is good enough."""
    dopri5 = look_up("solver", "Dopri5")(1e-3, 1e-3, first_step=0.01, max_step=0.1)
    stats = of.solve(riccati, torch.ones(1), [0.0, 1.0], solver=dopri5, params=()).stats
    assert stats.largest_step <= 0.1 + 1e-9
    assert stats.smallest_step == pytest.approx(0.01)
