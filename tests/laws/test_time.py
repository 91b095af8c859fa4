"""Laws of time: far from 0 it is kept as well as floating-point numbers can, and what they cannot is said."""

import math
import warnings
from typing import Literal

import pytest
import torch
from torch import Tensor

import odeflow as of
from equations import column, rotation
from odeflow.plugin.registry import look_up, plugins
from odeflow_solvers import RK4, AdamsBashforth, Dopri5, Euler, ImplicitMidpoint, Rodas4

D = torch.float64
ONE = torch.ones(1, 2, dtype=D)
FIXED = [name for name, cls in plugins("solver").items() if "num_steps" in cls.__init__.__annotations__]


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def swing(t0: float) -> object:
    """y′ = cos(t − t₀), whose solution from 0 is sin(t − t₀)."""
    return lambda t, y: torch.cos(column(t, y) - t0) + 0 * y


@pytest.mark.parametrize("span", [(1.7e9, 1.7e9 + 1), (1e6, 1e6 + 1e-3), (-1e10, -1e10 - 1)])
@pytest.mark.parametrize("name", FIXED)
def test_equal_steps_are_counted(name: str, span: tuple[float, float]) -> None:
    """Wherever time begins there are as many steps as were asked for, and the result is that of a solve from 0."""
    cls = look_up("solver", name)
    there = of.solve(rotation, ONE, span, solver=cls(num_steps=20), params=())
    here = of.solve(rotation, ONE, [0.0, span[1] - span[0]], solver=cls(num_steps=20), params=())
    assert there.stats.accepted == 20
    assert there.stats.nfe_forward == here.stats.nfe_forward
    assert torch.allclose(there.y, here.y, rtol=0, atol=0.03 * math.ulp(span[0]) + 1e-14)


@pytest.mark.parametrize("controller", ["I", "PI"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_error_control_does_not_depend_on_where_time_begins(per_sample: bool, controller: Literal["I", "PI"]) -> None:
    """The clock's rounding far from 0 is not taken for a stop that shortens the step, whose error tells less."""

    def duffing(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack((y[:, 1], -y[:, 0] - y[:, 0] ** 3), 1)

    counts: set[tuple[int, int]] = set()
    for start in (0.0, 1.7e9):
        solver = Dopri5(1e-9, 1e-9, controller=controller, per_sample=per_sample)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the field's time, which it does not use
            stats = of.solve(duffing, ONE, [start, start + 5], solver=solver, params=()).stats
        counts.add((stats.accepted, stats.rejected))
    assert len(counts) == 1


@pytest.mark.parametrize("name", FIXED)
def test_steps_near_the_spacing_of_floats_are_refused(name: str) -> None:
    """A step that rounding would make twice as long, or none, is no step."""
    solver = look_up("solver", name)(num_steps=10_000_000, max_steps=10_000_000)
    with pytest.raises(
        of.SettingError, match=r"have a size of 1e-07, but floating-point numbers there are 2.38e-07 ap"
    ):
        solver.integrate(rotation, ONE, torch.tensor([1.7e9, 1.7e9 + 1], dtype=D))


@pytest.mark.parametrize("name", list(plugins("solver")))
def test_spans_of_a_few_floats_are_refused(name: str) -> None:
    """Between two times that are almost the same number there is no room for steps."""
    cls = look_up("solver", name)
    solver = cls(num_steps=1) if name in FIXED else cls()
    with pytest.raises(of.SettingError, match="apart: there is no room for steps"):
        of.solve(rotation, ONE, [1.7e9, 1.7e9 + 1e-6], solver=solver, params=())


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("t", [torch.linspace(0, 100, 10_001), torch.linspace(1e6, 1e6 + 20, 11)], ids=["long", "far"])
def test_rows_belong_to_their_times(t: Tensor, per_sample: bool) -> None:
    """Times in float32 are exact numbers, and rows are the solution there, not at a step's end nearby."""
    start, solver = float(t[0]), Dopri5(1e-9, 1e-9, per_sample=per_sample)
    y = of.solve(swing(start), torch.zeros(1, 1, dtype=D), t, solver=solver, params=()).y
    assert float((y[:, 0, 0] - torch.sin(t.double() - start)).abs().max()) < 5e-8


@pytest.mark.parametrize("solver", [RK4(num_steps=1000), AdamsBashforth(num_steps=1000)], ids=["rk4", "adams"])
def test_rows_of_equal_steps_belong_to_their_times(solver: of.Solver) -> None:
    """So do those of equal steps, which may end near an output time, but not at it."""
    t = torch.linspace(1e6, 1e6 + 20, 11)
    y = of.solve(swing(1e6), torch.zeros(1, 1, dtype=D), t, solver=solver, params=()).y
    assert float((y[:, 0, 0] - torch.sin(t.double() - 1e6)).abs().max()) < 1e-7


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(("start", "wanted"), [(0.0, None), (100.0, None), (1e6, "0.119"), (1.7e9, "203")])
def test_time_too_coarse_for_the_state_is_warned_of(start: float, wanted: str | None, per_sample: bool) -> None:
    """The field gets its time in the state's dtype; where that is too coarse for the tolerance, the solve says so."""

    def go(dtype: torch.dtype) -> float:
        solver = Dopri5(1e-6, 1e-6, per_sample=per_sample)
        y = of.solve(swing(start), torch.zeros(1, 1, dtype=dtype), [start, start + 10], solver=solver, params=()).y
        return float(y[-1])

    if wanted is None:
        assert go(torch.float32) == pytest.approx(math.sin(10), abs=1e-5)
    else:
        with pytest.warns(UserWarning, match=rf"times near .* are {wanted} apart: too coarse .* or solve in float64"):
            go(torch.float32)
    assert go(D) == pytest.approx(math.sin(10), abs=1e-5)


@pytest.mark.parametrize("name", list(plugins("solver")))
def test_every_solver_warns_of_coarse_time(name: str) -> None:
    """The warning is the solve's, whatever the solver."""
    cls = look_up("solver", name)
    solver = cls(num_steps=1) if name in FIXED else cls()
    with pytest.warns(UserWarning, match="times near 1e"):
        of.solve(rotation, ONE.float(), [1e8, 1e8 + 8], solver=solver, params=())


class Opaque(torch.autograd.Function):
    """cos, of which autograd knows no forward mode."""

    @staticmethod
    def forward(ctx: object, t: Tensor) -> Tensor:
        return torch.cos(t)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return torch.zeros_like(grads[0])


def test_differences_in_time_are_taken_within_a_step() -> None:
    """A Rosenbrock method that finds ∂f/∂t by a difference finds it far from t = 0, too."""
    y = of.solve(
        lambda t, y: Opaque.apply(t - 1e6) - 0 * y,
        ONE[:, :1] * 0,
        [1e6, 1e6 + 10],
        solver=Rodas4(1e-6, 1e-6),
        params=(),
    ).y
    assert float(y[-1]) == pytest.approx(math.sin(10), abs=1e-5)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite(dtype: torch.dtype, per_sample: bool) -> None:
    """Values divided by a tolerance leave the range of 16 bits; that makes neither the state nor the field infinite."""
    solver = Dopri5(1e-2, 1e-3, per_sample=per_sample)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of rounding
        y = of.solve(decay, torch.ones(1, 1, dtype=dtype), [0.0, 1.0], solver=solver, params=()).y
    assert float(y[-1]) == pytest.approx(math.exp(-1), rel=2e-2)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("slope", [1e15, 1e33])
def test_large_slopes_are_finite(slope: float, per_sample: bool) -> None:
    """So it is where the square of a scaled slope leaves the range of float32."""
    solver = Dopri5(per_sample=per_sample)
    y = of.solve(lambda t, y: 0 * y + slope, torch.zeros(1, 1), [0.0, 1.0], solver=solver, params=()).y
    assert float(y[-1]) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_field_that_is_never_finite_is_reported_soon(per_sample: bool) -> None:
    """Steps do not shrink to the smallest number there is before the solve gives up."""
    calls = 0

    def field(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.where(t > 0, math.nan, 1.0).view(-1, 1) * y

    with pytest.raises(of.SolveError, match="not finite"):
        of.solve(field, ONE, [0.0, 1.0], solver=Dopri5(per_sample=per_sample), params=())
    assert calls < 400


@pytest.mark.parametrize(
    "solver",
    [Dopri5(), Dopri5(per_sample=True), RK4(num_steps=2), ImplicitMidpoint(num_steps=2)],
    ids=["adaptive", "per_sample", "equal", "implicit"],
)
def test_parameters_that_are_not_finite_are_named(solver: of.Solver) -> None:
    """When a gradient was nan, the next solve blames the parameters it has spoilt, not the field."""
    dynamics = torch.nn.Linear(2, 2, dtype=D)
    torch.nn.init.constant_(dynamics.bias, math.nan)

    class Field(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dynamics

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.inner(y)

    with pytest.raises(of.SolveError, match=r"^1 of the field's parameters are not finite, of shape \(2,\)"):
        of.Flow(Field(), solver)(ONE)


def test_a_single_step_over_any_span() -> None:
    """One Euler step is y + h f, however long."""
    for span in (1e-12, 1.0, 1e12):
        y = of.solve(lambda t, y: 0 * y + 1, ONE * 0, [0.0, span], solver=Euler(num_steps=1), params=()).y
        assert float(y[-1, 0, 0]) == span


@pytest.mark.parametrize("name", FIXED)
def test_too_many_fixed_steps_are_refused(name: str) -> None:
    """More steps than `max_steps` are refused before the field is evaluated, with what to do; as many are taken."""
    cls, called = look_up("solver", name), 0

    def field(t: Tensor, y: Tensor) -> Tensor:
        nonlocal called
        called += 1
        return rotation(t, y)

    with pytest.raises(
        of.SettingError, match=r"step_size = 1e-12 takes 1e\+12 steps over a time span of 1, more than 10"
    ):
        of.solve(field, ONE, [0.0, 1.0], solver=cls(step_size=1e-12, max_steps=10), params=())
    assert called == 0
    assert of.solve(field, ONE, [1.0, 0.0], solver=cls(step_size=0.1, max_steps=10), params=()).stats.accepted == 10
    with pytest.raises(of.SettingError, match="exceeds max_steps = 1000000; take fewer steps, or raise max_steps"):
        cls(num_steps=10**12)


def test_times_of_no_sample_are_refused() -> None:
    """An empty batch with times of its own has no time from which to start."""
    with pytest.raises(of.StateError, match=r"at least one sample; the times are of none, \(0, 3\)"):
        of.solve(lambda t, y: -y, torch.zeros(0, 2), torch.zeros(0, 3), solver=Dopri5(per_sample=True), params=())


@pytest.mark.parametrize("gradient", [of.Backprop(), of.Checkpointed(), of.Adjoint()], ids=str)
def test_times_may_depend_on_parameters_of_the_field(gradient: of.Gradient) -> None:
    """Where the last time was computed from a parameter, that dependence counts once: y = exp(a · 2a), dy/da = 4a y."""
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    t = torch.stack((torch.zeros_like(a), 2 * a))
    y0, solver = torch.ones(1, 1, dtype=torch.float64), Dopri5(1e-10, 1e-11)
    y = of.solve(lambda t, y: a * y, y0, t, solver=solver, gradient=gradient, params=(a,)).y[-1].sum()
    (slope,) = torch.autograd.grad(y, a)
    assert float(slope) == pytest.approx(4 * 0.7 * math.exp(2 * 0.7**2), rel=1e-7)
