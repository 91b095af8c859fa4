"""Laws of step control: controllers, norms, times of jumps, and what is said when a problem is hard."""

import math
import warnings
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import odeflow as of
from equations import after_the_jump, brusselator, jumping, rotation
from odeflow.engine.loop.controller import Controller
from odeflow.engine.step.stages import ValueStages
from odeflow.plugin.registry import build, look_up, plugins
from odeflow.testing import SPIRAL
from odeflow_solvers import RK4, Bosh3, Dopri5, Euler, Heun, HeunEuler, Kvaerno5, Rodas4, Trapezoid, Tsit5

D = torch.float64
FIXED = [name for name, cls in plugins("solver").items() if issubclass(cls, of.RungeKutta) and cls.error_order is None]
ADAPTIVE = [name for name, cls in plugins("solver").items() if issubclass(cls, of.RungeKutta) and cls.error_order]
ONE = torch.ones(1, 1, dtype=D)


def stiff(t: Tensor, y: Tensor) -> Tensor:
    """y′ = −1000 (y − cos t): smooth solutions that explicit methods follow in tiny steps."""
    return -1000 * (y - torch.cos(t))


def test_factors_of_the_controllers() -> None:
    """Each follows its formula: I the last error, PI the last two, PID the last three, with the gains of the papers."""
    errors, k = [0.5, 0.2, 0.9], 5
    r = [0.9 * error ** (-1 / k) for error in errors]
    wanted = {
        "I": r[2],
        "PI": r[2] ** 0.7 * r[1] ** -0.4,
        "PID": (r[2] * r[1] ** 2 * r[0]) ** (1 / 18),
        (0.6, -0.2): r[2] ** 0.6 * r[1] ** -0.2,
    }
    for gains, factor in wanted.items():
        controller = Controller(gains, k - 1)
        factors, past = [], controller.unknown
        for error in errors:
            found, past = controller.factor(error, False, past)
            factors.append(found)
        assert factors[0] == pytest.approx(r[0])  # until enough is known, it is I
        assert factors[2] == pytest.approx(factor)
        assert controller.factor(32.0, False, past) == (pytest.approx(0.9 / 2), past)  # so it is after a rejection
        for error in (math.nan, math.inf, 1e30):
            assert controller.factor(error, False, past)[0] == 0.2
        assert controller.factor(1e-30, False, past)[0] == 10 or len(controller.gains) > 1
        of_tensor, _ = controller.factor(torch.tensor(errors[1]), torch.tensor(True), past)
        assert float(of_tensor) == pytest.approx(controller.factor(errors[1], True, past)[0])  # and so it is traced


@pytest.mark.parametrize("controller", ["I", "PI", "PID", (0.6, -0.2)])
@pytest.mark.parametrize("name", ["Bosh3", "Dopri5", "Tsit5", "Dopri8"])
def test_every_controller_meets_the_tolerance(name: str, controller: str) -> None:
    """Whatever the controller, the error is within 100 tolerances, at less than twice the evaluations."""
    cls, y0 = look_up("solver", name), torch.tensor([1.5, 3.0], dtype=D)
    truth = of.solve(brusselator, y0, [0.0, 6.0], solver=look_up("solver", "Dopri8")(1e-12, 1e-13), params=()).y[-1]
    nfe: list[int] = []
    for each in ("I", controller):
        solution = of.solve(brusselator, y0, [0.0, 6.0], solver=cls(1e-5, 1e-5, controller=each), params=())
        assert float((solution.y[-1] - truth).abs().max()) < 1e-3
        nfe.append(solution.stats.nfe_forward)
    assert nfe[1] < 2 * nfe[0]


def test_pi_is_smoother_where_stability_bounds_the_steps() -> None:
    """On a stiff problem the elementary controller has steps rejected again and again, PI almost never."""
    elementary, smooth = (
        of.solve(stiff, ONE, [0.0, 1.0], solver=Tsit5(1e-4, 1e-4, controller=each), params=()).stats
        for each in ("I", "PI")
    )
    assert smooth.rejected < elementary.rejected / 5
    assert smooth.nfe_forward < elementary.nfe_forward


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_first_step_has_the_exponent_of_the_order_of_the_method(unit: float) -> None:
    """In units of |y|/|f| it is (0.1 / max(|f|, |f′|))^(1/(p + 1)) in the norm of the tolerances."""
    tolerance = 1e-6
    y0 = torch.ones(1, 1, dtype=D)
    control = Dopri5(tolerance, tolerance).step_control(0.0, 10.0 * unit)
    stages = ValueStages(Dopri5.tableau, lambda t, y: -3 * y / unit, y0)
    control.start(stages, 0.0, y0, 10.0 * unit)
    assert control.h == pytest.approx(unit / 3 * (0.1 * 2 * tolerance) ** (1 / 6), rel=1e-9)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_steps_do_not_depend_on_the_unit_of_time(name: str, per_sample: bool) -> None:
    """The same problem in other units is solved by as many steps, as exactly."""
    ends: list[Tensor] = []
    counts: set[int] = set()
    for unit in (2.0**-40, 1.0, 2.0**40):
        solver = look_up("solver", name)(1e-5, 1e-8, per_sample=per_sample)
        solution = of.solve(lambda t, y, unit=unit: -3 * y / unit, ONE, [0.0, unit], solver=solver, params=())
        ends.append(solution.y[-1])
        counts.add(solution.stats.accepted)
    assert len(counts) == 1
    assert torch.allclose(ends[0], ends[1], rtol=1e-12)
    assert torch.allclose(ends[2], ends[1], rtol=1e-12)
    assert float(ends[1]) == pytest.approx(math.exp(-3), rel=1e-3)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_first_step_is_not_below_the_smallest(name: str) -> None:
    """A guess below `min_step` is raised to it, and an interval shorter than that is one step."""
    for per_sample in (False, True):
        by = look_up("solver", name)(1e-3, 1e-3, min_step=1e-2)
        if per_sample and isinstance(by, of.RungeKutta):
            by = look_up("solver", name)(1e-3, 1e-3, min_step=1e-2, per_sample=True)
        for end in (1.0, 1e-3):
            y = of.solve(
                lambda t, y: torch.ones_like(y), torch.zeros(3, 1, dtype=D), [0.0, end], solver=by, params=()
            ).y
            assert float(y[-1, 0]) == pytest.approx(end)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_last_step_ends_at_the_last_time(name: str) -> None:
    """The last step is cut to end where the solve does, so that nothing is evaluated beyond."""
    latest = 0.0

    def field(t: Tensor, y: Tensor) -> Tensor:
        nonlocal latest
        latest = max(latest, float(t))
        return -y

    of.solve(field, ONE, [0.0, 1.7], solver=look_up("solver", name)(1e-3, 1e-3), params=())
    assert latest <= 1.7


class TestJumps:
    """A field that jumps at t = 1 and, by t ≥ 1 or t > 1, belongs at that time to either side."""

    @pytest.mark.parametrize("closed", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("name", [*FIXED, *ADAPTIVE])
    def test_the_order_is_kept(self, name: str, dtype: torch.dtype, closed: bool) -> None:
        """With jump_ts a step ends at the jump, and each side is integrated with its own field alone."""
        cls, start = look_up("solver", name), torch.ones(2, 1, dtype=dtype)
        if name in FIXED:
            solver = cls(step_size=0.003 if cls.order == 1 else 0.02, jump_ts=[1.0, 7.0])
        else:
            solver = cls(1e-6 if cls.order > 2 else 1e-4, 1e-6 if cls.order > 2 else 1e-4, jump_ts=[1.0, 7.0])
        seen: list[float] = []
        field = jumping(closed)

        def watched(t: Tensor, y: Tensor) -> Tensor:
            seen.append(float(t))
            return field(t, y)

        with torch.no_grad():
            solution = of.solve(watched, start, [0.0, 1.0, 1.7], solver=solver)
        assert 1.0 not in seen
        assert float(solution.y[-1, 0]) == pytest.approx(
            float(after_the_jump(ONE, 1.7)), abs={1: 0.02, 2: 5e-3}.get(cls.order, 1e-4)
        )
        assert solution.stats.rejected <= 3

    @pytest.mark.parametrize(
        "solver", [RK4(num_steps=30), Dopri5(1e-6, 1e-6)], ids=lambda solver: type(solver).__name__
    )
    def test_without_it_is_costly_or_wrong(self, solver: of.Solver) -> None:
        """The same field without jump_ts costs steps, or accuracy."""
        with_it = type(solver)(**{**solver.spec["init_args"], "jump_ts": (1.0,)})
        field = jumping()
        without = of.solve(field, ONE, [0.0, 1.69], solver=solver, params=())
        better = of.solve(field, ONE, [0.0, 1.69], solver=with_it, params=())
        exact = float(after_the_jump(ONE, 1.69))
        error, smaller = (abs(float(each.y[-1]) - exact) for each in (without, better))
        assert smaller < error / 20 or better.stats.nfe_forward < 0.8 * without.stats.nfe_forward

    @pytest.mark.parametrize("backwards", [False, True])
    def test_either_direction_and_many(self, backwards: bool) -> None:
        """Forward and back again over two jumps, one of them at the start, leads to where it began."""

        def steps(t: Tensor, y: Tensor) -> Tensor:
            return y * torch.floor(t) - torch.where(t < 2, 0.3, 1.0)

        t = [3.0, 0.5] if backwards else [0.5, 3.0]
        solver = Tsit5(1e-10, 1e-10, jump_ts=(1.0, 2.0, 3.0))
        with torch.no_grad():
            there = of.solve(steps, ONE, t, solver=solver)
            back = of.solve(steps, there.y[-1], t[::-1], solver=solver)
        assert torch.allclose(back.y[-1], ONE, atol=1e-8)
        assert there.stats.rejected <= 3

    @pytest.mark.parametrize("gradient", [of.Backprop(), of.Checkpointed()], ids=lambda each: type(each).__name__)
    def test_gradients(self, gradient: of.Gradient) -> None:
        """∂L/∂y₀ and ∂L/∂t are as exact as the solution, also of the solution between output times; jumps do not move with t."""
        y0, t = ONE.clone().requires_grad_(), torch.tensor([0.0, 1.6], dtype=D, requires_grad=True)
        solver = RK4(num_steps=80, jump_ts=(1.0,))
        solution = of.solve(jumping(), y0, t, solver=solver, gradient=gradient, params=(), dense=True)
        growth = {0.6: math.exp(2 * 0.6), 1.33: math.exp(2 - 5 * 0.33), 1.6: math.exp(2 - 5 * 0.6)}
        for time, by_y0 in growth.items():
            y = solution.y[-1] if time == 1.6 else solution(time)
            found = torch.autograd.grad(y.sum(), (y0, t), retain_graph=True)
            by_end = -5 * float(y.detach()) if time == 1.6 else 0.0
            assert float(found[0]) == pytest.approx(by_y0, rel=1e-4)
            assert found[1].tolist() == pytest.approx([-2 * by_y0, by_end], abs=1e-4)

    def test_adjoint(self) -> None:
        """The continuous adjoint stops at jumps, too, going backwards."""
        y0 = ONE.clone().requires_grad_()
        solver = Dopri5(1e-9, 1e-9, jump_ts=(1.0,))
        field = jumping()
        y = of.solve(field, y0, [0.0, 1.7], solver=solver, gradient=of.Adjoint(), params=()).y
        (slope,) = torch.autograd.grad(y[-1].sum(), y0)
        assert float(slope) == pytest.approx(math.exp(2 - 3.5), rel=1e-7)

    def test_refusals(self) -> None:
        """What cannot choose a side says so."""
        with pytest.raises(of.SettingError, match="Dopri5: jump_ts needs compile=False"):
            Dopri5(compile=True, jump_ts=(1.0,))
        solver, y0 = RK4(num_steps=2, jump_ts=(1.0,)), ONE.clone().requires_grad_()
        with pytest.raises(of.GradientError, match="Reversible does not support jump_ts"):
            of.solve(stiff, y0, [0.0, 2.0], solver=solver, gradient=of.Reversible(), params=())


class TestNorms:
    def test_a_sample_cannot_hide_among_others(self) -> None:
        """With norm="max_sample" a hard sample among easy ones is as exact as alone; with "rms" it is not."""

        def field(t: Tensor, y: Tensor) -> Tensor:
            return (
                y.flip(1)
                * torch.tensor([1.0, -1.0], dtype=D)
                * torch.linspace(0, 1, len(y), dtype=D)[:, None] ** 99
                * 9
            )

        y0 = torch.tensor([[0.0, 1.0]], dtype=D).expand(400, 2).contiguous()
        errors: dict[str, float] = {}
        for norm in ("rms", "max_sample"):
            y = of.solve(field, y0, [0.0, 3.0], solver=Dopri5(1e-6, 1e-6, norm=norm), params=()).y[-1, -1]
            errors[norm] = math.hypot(float(y[0]) - math.sin(27), float(y[1]) - math.cos(27))
        assert errors["max_sample"] < errors["rms"] / 5
        alone = of.solve(
            lambda t, y: field(t, y0 * 0 + y)[-1:], y0[-1:], [0.0, 3.0], solver=Dopri5(1e-6, 1e-6), params=()
        )
        error = math.hypot(float(alone.y[-1, 0, 0]) - math.sin(27), float(alone.y[-1, 0, 1]) - math.cos(27))
        assert errors["max_sample"] == pytest.approx(error, rel=0.05)

    def test_needs_samples(self) -> None:
        """Packed tuples and states without a further dimension are refused, and unknown norms."""
        solver = Dopri5(norm="max_sample")
        for state in (torch.ones(3), (torch.ones(3, 2), torch.ones(3))):
            with pytest.raises(
                of.SettingError, match=r"norm='max_sample' needs a state of shape \(B, d, …\), one Tensor"
            ):
                of.solve(lambda t, y: y, state, [0.0, 1.0], solver=solver, params=())
        with pytest.raises(of.SettingError, match="norm must be 'rms' or 'max_sample'; got 'max'"):
            Dopri5(norm="max")  # pyright: ignore[reportArgumentType]


class TestFixedStepsOfPairs:
    """A method with an error estimate takes fixed steps where step_size or num_steps is given."""

    SOLVERS: ClassVar[dict[str, of.Solver]] = {
        "explicit": Dopri5(num_steps=12),
        "implicit": Kvaerno5(step_size=0.1, newton_tol=1e-13),
        "Rosenbrock": Rodas4(num_steps=12),
        "jump": Tsit5(num_steps=12, jump_ts=(SPIRAL.t0 + 0.33,)),
    }

    @pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
    def test_steps_and_gradients(self, solver: of.Solver) -> None:
        """They are as many as were asked for; the gradients through them agree, of dense output too."""
        t = torch.linspace(SPIRAL.t0, SPIRAL.t1, 3, dtype=D)
        found: list[list[Tensor]] = []
        for gradient in (of.Backprop(), of.Checkpointed(), of.Adjoint()):
            y0 = SPIRAL.solution(SPIRAL.t0).requires_grad_()
            dense = not isinstance(gradient, of.Adjoint)
            solution = of.solve(SPIRAL.field, y0, t, solver=solver, gradient=gradient, dense=dense)
            assert solution.stats.rejected == 0
            assert solution.stats.accepted == (
                13
                if solver.jump_ts
                else math.ceil(SPIRAL.span / 0.1 - 1e-9)
                if solver is self.SOLVERS["implicit"]
                else 12
            )
            between = solution(float(t.mean()) - 0.01) if dense else solution.y[1]
            found.append(list(torch.autograd.grad((solution.y[-1] + dense * between).sin().sum(), y0)))
        assert torch.allclose(found[0][0], found[1][0], rtol=1e-9)

    def test_reversible(self) -> None:
        """The reversible gradient takes the same steps, without an error estimate."""
        nfe: list[int] = []
        for solver in (Dopri5(num_steps=12), RK4(num_steps=12)):
            y0 = SPIRAL.solution(SPIRAL.t0).requires_grad_()
            solution = of.solve(SPIRAL.field, y0, [SPIRAL.t0, SPIRAL.t1], solver=solver, gradient=of.Reversible())
            solution.y[-1].sum().backward()
            nfe.append(solution.stats.nfe_forward)
        assert nfe == [12 * 2 * 6, 12 * 2 * 4]

    def test_events(self) -> None:
        """An event ends the solve inside a fixed step."""
        fall = of.Event(lambda t, y: y[..., 0] - 0.5)
        solution = of.solve(
            lambda t, y: -y, torch.ones(1, dtype=D), [0.0, 4.0], solver=Dopri5(num_steps=8), event=fall, params=()
        )
        assert float(solution.t[-1]) == pytest.approx(math.log(2), abs=1e-4)

    def test_they_are_those_of_the_method_without_control(self) -> None:
        """With fixed steps Heun–Euler is Heun's method, whatever the tolerances, and costs no evaluation more."""
        t, y0 = [SPIRAL.t0, SPIRAL.t1], SPIRAL.solution(SPIRAL.t0)
        pair, alone, loose = (
            of.solve(SPIRAL.field, y0, t, solver=solver, params=())
            for solver in (HeunEuler(num_steps=9), Heun(num_steps=9), HeunEuler(0.5, 0.5, num_steps=9))
        )
        assert torch.equal(pair.y, alone.y)
        assert torch.equal(pair.y, loose.y)
        assert pair.stats.nfe_forward == alone.stats.nfe_forward

    @pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
    def test_they_are_stored(self, solver: of.Solver) -> None:
        """A solver is built again from its spec with the same control."""
        again = build(solver.spec)
        assert again.control == solver.control
        assert again.spec == solver.spec

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda: Dopri5(num_steps=9, first_step=0.1, norm="max_sample"),
                "Dopri5: fixed steps, of step_size or num_steps, have no use for first_step, norm; leave one out",
            ),
            (lambda: Dopri5(step_size=0.1, per_sample=True), "Dopri5: fixed steps, .* have no use for per_sample"),
            (lambda: Dopri5(step_size=0.1, num_steps=2), "Dopri5: give either step_size or num_steps; both were given"),
            (lambda: RK4(1e-3, num_steps=4), "RK4: .* takes fixed steps: give step_size or num_steps, and not rtol$"),
            (
                lambda: RK4(controller="PI", num_steps=4),
                r"RK4 has no option 'controller'\.  options: step_size, num_steps, max_steps, jump_ts, compile  ",
            ),
            (lambda: Dopri5(newton_tol=1e-3), "Dopri5 has no option 'newton_tol'.* is an option of ImplicitEuler"),
            (lambda: of.Fixed(), "give either step_size or num_steps; neither was given"),
            (lambda: RK4(num_steps=1).with_control(Dopri5().control), "RK4: the method has no error estimate"),
            (lambda: Dopri5(per_sample=True).with_control(of.Fixed(num_steps=1)), "Dopri5: per_sample needs adaptive"),
        ],
    )
    def test_contradictions_are_refused(self, make: Callable[[], object], message: str) -> None:
        """What the method cannot use, or not beside fixed steps, is refused by name."""
        with pytest.raises(of.SettingError, match=message):
            make()

    def test_a_family_refuses_what_it_does_not_support(self) -> None:
        """A constructor of one's own that passes on an option of another family is refused, too."""

        class Wrong(of.ImplicitRungeKutta):
            tableau = Trapezoid.tableau

            def __init__(self) -> None:
                super().__init__(num_steps=3, compile=True)

        with pytest.raises(of.SettingError, match=r"Wrong: .* give step_size or num_steps, and not compile$"):
            Wrong()


class TestErrorPerSpan:
    """With error_per="span" the tolerances bound the errors of all steps in sum, not of each."""

    @pytest.mark.parametrize("name", ["Bosh3", "Dopri5", "Tsit5", "Dopri8", "Kvaerno5", "Rodas4"])
    def test_the_error_at_the_end_is_within_the_tolerance(self, name: str) -> None:
        """Where the problem amplifies no error, whatever the span; bounding each step's error does not achieve that."""
        y0, cls = torch.tensor([[0.0, 1.0]], dtype=D), look_up("solver", name)
        tolerance = 1e-2 if cls.order < 4 else 1e-4
        errors: dict[str, float] = {}
        for error_per in ("step", "span"):
            solver = cls(tolerance, tolerance, error_per=error_per)
            y = of.solve(rotation, y0, [0.0, 20.0], solver=solver, params=()).y[-1, 0]
            errors[error_per] = math.hypot(float(y[0]) - math.sin(20), float(y[1]) - math.cos(20))
        assert errors["span"] < tolerance
        assert errors["step"] > 2 * errors["span"]

    def test_the_unit_of_time_does_not_matter(self) -> None:
        """The same equation in seconds and in minutes is solved by the same steps."""
        accepted: list[int] = []
        for unit in (1.0, 60.0):
            solver = Dopri5(1e-6, 1e-6, error_per="span", first_step=0.01 / unit)
            y0 = torch.tensor([1.5, 3.0], dtype=D)
            stats = of.solve(
                lambda t, y, unit=unit: unit * brusselator(t, y), y0, [0.0, 6.0 / unit], solver=solver, params=()
            ).stats
            accepted.append(stats.accepted)
        assert accepted[0] == accepted[1]

    def test_refusals(self) -> None:
        """What is neither a step nor the span is refused."""
        with pytest.raises(of.SettingError, match="Dopri5: error_per must be 'step' or 'span'; got 'unit'"):
            Dopri5(error_per="unit")  # pyright: ignore[reportArgumentType]


def test_unknown_controllers_are_refused() -> None:
    """Names and gains that make no controller are refused when the solver is built."""
    with pytest.raises(of.SettingError, match="controller must be one of I, PI, PID, or the gains; got 'P'"):
        Dopri5(controller="P")  # pyright: ignore[reportArgumentType]
    with pytest.raises(of.SettingError, match=r"one to three gains \(β₁, β₂, β₃\); got \[\]"):
        Dopri5(controller=())


def test_stiffness_is_estimated() -> None:
    """Stats say h|λ|: at a stiff problem the bound of stability, 3.3 for Dopri5; at an easy one well below 1."""
    hard = of.solve(stiff, ONE, [0.0, 1.0], solver=Dopri5(1e-4, 1e-4), params=()).stats
    assert hard.stiffness == pytest.approx(1000 / hard.accepted, rel=0.1)
    assert 2.5 < hard.stiffness < 3.6
    easy = of.solve(lambda t, y: torch.cos(t) * y, ONE, [0.0, 20.0], solver=Dopri5(1e-6, 1e-6), params=()).stats
    assert 0 < easy.stiffness < 0.7
    traced = of.solve(stiff, ONE, [0.0, 1.0], solver=Dopri5(1e-4, 1e-4), gradient=of.Backprop(), params=()).stats
    assert traced.stiffness == pytest.approx(hard.stiffness)
    assert of.solve(stiff, ONE, [0.0, 0.1], solver=Bosh3(1e-4, 1e-4), params=()).stats.stiffness is None
    assert of.solve(stiff, ONE, [0.0, 0.1], solver=RK4(num_steps=200), params=()).stats.stiffness is None


@pytest.mark.parametrize("gradient", [None, of.Backprop(), of.Checkpointed()], ids=["none", "Backprop", "Checkpointed"])
def test_running_out_of_steps_keeps_what_was_found(gradient: of.Gradient | None) -> None:
    """The error carries the solution until there, and names an implicit solver where stability was what bound it."""
    y0, solver = ONE.clone().requires_grad_(gradient is not None), Dopri5(1e-4, 1e-4, max_steps=200)
    with pytest.raises(of.SolveError, match=r"The problem is stiff: .* is [23]\.?\d*, .* such as Kvaerno5") as caught:
        of.solve(stiff, y0, [0.0, 0.1, 0.2, 9.0], solver=solver, gradient=gradient, params=())
    partial = caught.value.partial
    assert partial is not None
    assert partial.t.tolist()[:3] == [0.0, 0.1, 0.2]
    assert 0.2 < float(partial.t[-1]) < 1
    assert torch.allclose(partial.y[:, 0, 0], torch.cos(partial.t), atol=2e-3)
    assert partial.stats.accepted + partial.stats.rejected == 200
    assert partial.stats.nfe_forward > 1200
    with pytest.raises(
        of.SolveError, match=r"after \d+ rejections\. Loosen rtol and atol, raise max_steps, or use an imp"
    ):
        of.solve(brusselator, torch.ones(1, 2), [0.0, 9.0], solver=Dopri5(max_steps=20), params=())


def test_the_leaf_that_is_not_finite_is_named() -> None:
    """Of a tuple state, the message names the leaf, and the partial solution is a tuple."""

    def field(t: Tensor, y: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return y[0], -y[1] * torch.where(t > 1, torch.inf, 1.0), y[2]

    start = (ONE, torch.ones(3, dtype=D), ONE)
    with pytest.raises(of.SolveError, match=r"at t = 1, after .* not finite.*\. Not finite: leaf 1$") as caught:
        of.solve(field, start, [0.0, 0.5, 2.0], solver=Dopri5(), params=())
    assert caught.value.partial is not None
    assert [leaf.shape for leaf in caught.value.partial.y] == [(3, 1, 1), (3, 3), (3, 1, 1)]
    with pytest.raises(of.SolveError, match=r"the field is not finite at the start, t = 3: .*\. Not finite: leaf 1$"):
        of.solve(field, start, [3.0, 4.0], solver=Dopri5(), params=())
    with pytest.raises(
        of.SolveError, match=r"ceases to be between t = 0\.5 and t = 2\. .* Not finite: leaf 1$"
    ) as caught:
        of.solve(field, start, [0.0, 0.5, 2.0], solver=Euler(num_steps=8), params=())
    assert caught.value.partial is not None
    assert caught.value.partial.t.tolist() == [0, 0.5]


def test_tolerances_below_rounding_are_warned_of() -> None:
    """Where the tolerance is that of the dtype's rounding, a warning says so; not where it is above, nor in float64."""
    y0 = torch.ones(3, 1)
    with pytest.warns(UserWarning, match=r"rtol = 1e-07 and atol = 1e-09 ask for more digits than torch\.float32 has"):
        of.solve(brusselator_of_one, y0, [0.0, 0.1], solver=Dopri5(1e-7, 1e-9), params=())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of.solve(brusselator_of_one, y0, [0.0, 0.1], solver=Dopri5(1e-6, 1e-6), params=())
        of.solve(brusselator_of_one, y0.double(), [0.0, 0.1], solver=Dopri5(1e-7, 1e-9), params=())


def brusselator_of_one(t: Tensor, y: Tensor) -> Tensor:
    return torch.sin(y)


@pytest.mark.parametrize("norm", ["seminorm", "full"])
def test_gradients_with_the_largest_samples_norm(norm: str) -> None:
    """Adjoint takes the norm for the forward pass alone, for backwards there are no samples; Reversible refuses it."""
    y0 = torch.linspace(0.5, 2, 6, dtype=D).view(3, 2).requires_grad_()
    by = Dopri5(1e-8, 1e-8, norm="max_sample")
    y = of.solve(lambda t, y: -(y**2), y0, [0.0, 1.0], solver=by, gradient=of.Adjoint(norm=norm), params=()).y
    (found,) = torch.autograd.grad(y[-1].sum(), y0)
    assert torch.allclose(found, (1 / (1 + y0.detach()) ** 2), atol=1e-6)
    with pytest.raises(of.GradientError, match="Reversible does not support norm='max_sample'"):
        of.solve(lambda t, y: -(y**2), y0, [0.0, 1.0], solver=by, gradient=of.Reversible(), params=())


def test_no_absolute_tolerance_at_zero() -> None:
    """Where the state is 0, atol = 0 allows no error at all, and the message says so."""
    with pytest.raises(
        of.SolveError, match="atol = 0 allows no error where the state is 0, as it is at t = 0: give an"
    ):
        of.solve(lambda t, y: 1 - y, torch.zeros(1, 1), [0.0, 1.0], solver=Dopri5(1e-3, 0.0), params=())


class Unestimated(of.MemoryStages):
    """Euler's step, without an estimate of its error."""

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.begin(t, h, y)
        return self.finish(y + h * self.first_slope(t, y))

    @property
    def traced(self) -> Callable[[of.Field], of.Stages]:
        return lambda field: Unestimated(1, field)


def test_a_family_without_an_error_estimate_says_what_to_implement() -> None:
    """Error control of steps that have no estimate ends with the method that is missing."""
    with pytest.raises(of.PluginError, match="Unestimated does not estimate its error: implement `error`, or set"):
        Unestimated(1, lambda t, y: -y).error()


def test_a_failure_after_an_output_time_repeats_no_row() -> None:
    """The field ends at t = 1, where a step ends and a row is asked for: the partial solution has that row once."""

    def ending(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t > 1, torch.nan, -y)

    y0 = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(of.SolveError, match=r"after (\d\d+) rejections in a row") as caught:
        of.solve(ending, y0, [0.0, 1.0, 2.0], solver=Dopri5(jump_ts=[1.0]), params=())
    assert caught.value.partial is not None
    assert caught.value.partial.t.tolist() == [0.0, 1.0]
    assert float(caught.value.partial.y[-1]) == pytest.approx(math.exp(-1), abs=1e-5)
