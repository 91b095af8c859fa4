"""The laws of solvers."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odeflow.errors import SettingError, StateError
from odeflow.flow import solve
from odeflow.gradient import Adjoint, Backprop, Checkpointed, Gradient
from odeflow.runge_kutta import ExplicitRungeKutta
from odeflow.solver import Solution, Solver
from odeflow.testing.conformance import Check, checks_of, largest, relative, require, run_all
from odeflow.testing.problem import SPIRAL, Problem

ROUNDING = 1e-12  # errors below are rounding as much as truncation
REVERSIBLE = 1e-6  # symmetric methods return up to the tolerance of their equations, however large the steps
SLACK = 0.4  # of an observed order


@dataclass(frozen=True)
class Subject:
    """A solver under test.

    Attributes:
        stepped: h ↦ the solver that takes steps of size h, whatever their error.
        problem: On which it is judged.
        dense_order: Power of h with which the error at times inside the steps falls; None: what its kind gives.
    """

    stepped: Callable[[float], Solver]
    problem: Problem
    dense_order: int | None = None

    @property
    def name(self) -> str:
        """The solver's class."""
        return type(self.stepped(self.problem.span)).__name__

    @property
    def order(self) -> int:
        """The order that it claims."""
        return self.stepped(self.problem.span).order

    @property
    def coarse(self) -> int:
        """A number of steps with which a method of this order just follows the problem."""
        return {1: 64, 2: 24}.get(self.order, 12)

    def solve(
        self, steps: int, *, problem: Problem | None = None, t: Tensor | None = None, gradient: Gradient | None = None
    ) -> Solution:
        """The problem solved in so many steps, at the times t or from end to end."""
        problem = problem or self.problem
        times = torch.tensor((problem.t0, problem.t1), dtype=torch.float64) if t is None else t
        y0 = problem.solution(float(times[0]))
        solver = self.stepped(problem.span / steps)
        with torch.set_grad_enabled(gradient is not None):
            return solve(problem.field, y0, times, solver=solver, gradient=gradient)


def solver_checks(
    solver: type[Solver] | Solver | Callable[[float], Solver],
    *,
    problem: Problem = SPIRAL,
    dense_order: int | None = None,
) -> list[Check]:
    """Each law of solvers as a check, for `pytest.mark.parametrize` with `ids=str`.

    Args:
        solver: The class, or an instance whose other settings shall be kept, if its arguments are those of `RungeKutta`
            or `AdaptiveRungeKutta`; else a function h ↦ solver that takes steps of size h whatever the error.
        problem: On which it is judged; `PARTICLE` for solvers of second-order equations.
        dense_order: Power of the step size with which the error at times inside the steps falls. By default the
            method's order, or what its interpolant allows: 4 with cubic Hermite.
    """
    return checks_of(Subject(_stepping(solver), problem, dense_order), LAWS)


def check_solver(
    solver: type[Solver] | Solver | Callable[[float], Solver],
    *,
    problem: Problem = SPIRAL,
    dense_order: int | None = None,
) -> None:
    """Checks all laws of solvers: order, both directions of time, dtype, tuples, batches, dense output, gradients.

    Args:
        solver: As for `solver_checks`.
        problem: As for `solver_checks`.
        dense_order: As for `solver_checks`.

    Raises:
        ConformanceError: A law is broken.
    """
    run_all(solver_checks(solver, problem=problem, dense_order=dense_order))


def observed_order(
    solver: type[Solver] | Solver | Callable[[float], Solver], *, problem: Problem = SPIRAL
) -> tuple[float, float]:
    """The powers of the step size with which errors fall: at the steps' ends, and inside the steps.

    Args:
        solver: As for `solver_checks`.
        problem: On which it is judged.
    """
    subject = Subject(_stepping(solver), problem)
    return _slope(_errors(subject, problem)), _slope(_errors_inside(subject))


def _stepping(solver: type[Solver] | Solver | Callable[[float], Solver]) -> Callable[[float], Solver]:
    """The solver that takes steps of size h, as a function of h."""
    if isinstance(solver, Solver):
        cls, settings = type(solver), dict[str, Any](solver.remembered_spec["init_args"])
    elif isinstance(solver, type):
        cls, settings = solver, dict[str, Any]()
    else:
        return solver
    arguments = inspect.signature(cls.__init__).parameters
    if "step_size" in arguments:
        settings.pop("num_steps", None)
        return lambda h: cls(**{**settings, "step_size": h})
    if {"rtol", "atol", "first_step", "max_step"} <= arguments.keys():
        forced = {"rtol": 1e6, "atol": 1e6}
        if "newton_tol" in arguments:  # as part of rtol and atol
            forced["newton_tol"] = 1e-20
        return lambda h: cls(**{**settings, **forced, "first_step": h, "max_step": h})
    raise SettingError(
        f"{cls.__name__} takes neither step_size nor rtol, atol, first_step and max_step, so how to force its steps is "
        f"not known: pass a function, such as check_solver(lambda h: {cls.__name__}(…)), that gives steps of size h"
    )


def _errors(subject: Subject, problem: Problem) -> list[tuple[int, float]]:
    """(number of steps, error halfway and at the end), the steps halving twice, mostly above rounding."""
    least = 48 if subject.order < 4 else 24 if subject.order < 7 else 8
    t = torch.linspace(problem.t0, problem.t1, 3, dtype=torch.float64)
    truth = torch.stack([problem.solution(time) for time in t.tolist()])
    found: list[tuple[int, float]] = []
    for steps in (least, 2 * least, 4 * least):
        y = subject.solve(steps, problem=problem, t=t).y
        assert isinstance(y, Tensor)
        found.append((steps, float((y - truth).norm())))
    return found


def _slope(errors: list[tuple[int, float]]) -> float:
    """Of log error against log step, over what is above rounding."""
    clear = [pair for pair in errors if pair[1] > ROUNDING] or errors[:1]
    (few, first), (many, last) = clear[0], clear[-1]
    return math.log(first / last) / math.log(many / few) if many > few else 0.0


def _listed(errors: list[tuple[int, float]]) -> str:
    return ", ".join(f"{error:.1e} in {steps} steps" for steps, error in errors)


def order(subject: Subject) -> None:
    """The error falls as the step size to the power of the order that is claimed."""
    errors = _errors(subject, subject.problem)
    slope = _slope(errors)
    look = "the coefficients, or at the order that the class states"
    autonomous = subject.problem.autonomous
    if autonomous is not None and abs(slope - subject.order) > SLACK:
        unmoved = _slope(_errors(subject, autonomous))
        if abs(unmoved - subject.order) <= SLACK:
            look = (
                f"the nodes c, the times at which the field is called: without time, on {autonomous.formula}, "
                f"the order is {unmoved:.2f}"
            )
    require(
        abs(slope - subject.order) <= SLACK,
        f"{subject.name}: order",
        wanted=f"errors that fall as h^{subject.order} on {subject.problem.formula}",
        got=f"h^{slope:.2f} ({_listed(errors)})",
        look=look,
    )


def time_reversal(subject: Subject) -> None:
    """Forward, then back in time from where that led, returns to the start, the closer the smaller the steps."""
    problem = subject.problem
    errors: list[tuple[int, float]] = []
    for steps in (subject.coarse, 2 * subject.coarse, 4 * subject.coarse):
        end = subject.solve(steps).y[-1]
        t = torch.tensor((problem.t1, problem.t0), dtype=torch.float64)
        with torch.no_grad():
            back = solve(problem.field, end, t, solver=subject.stepped(problem.span / steps)).y[-1]
        errors.append((steps, largest(back - problem.solution(problem.t0))))
    require(
        max(error for _, error in errors) < REVERSIBLE or _slope(errors) > subject.order / 2,
        f"{subject.name}: time reversal",
        wanted=f"a return to the start up to an error that falls as h^{subject.order}",
        got=f"h^{_slope(errors):.2f} ({_listed(errors)})",
        look="the sign of the steps where the times decrease",
    )


def dtype_and_device(subject: Subject) -> None:
    """The solution has the state's dtype and device, begins with the state itself, and has a row for each time."""
    problem = subject.problem
    devices = [
        torch.device("cpu"),
        *([torch.accelerator.current_accelerator()] if torch.accelerator.is_available() else []),
    ]
    for device in devices:
        for dtype in (torch.float32, torch.float64):
            y0 = problem.solution(problem.t0).to(device, dtype)
            seen: set[torch.dtype] = set()

            def field(t: Tensor, y: Tensor) -> Tensor:
                seen.add(y.dtype)  # noqa: B023
                return _like(problem.field(t.double().cpu(), y.double().cpu()), y)

            t = torch.linspace(problem.t0, problem.t1, 4, dtype=torch.float64)
            with torch.no_grad():
                y = solve(field, y0, t, solver=subject.stepped(problem.span / 16)).y
            assert isinstance(y, Tensor)
            require(
                y.dtype == dtype and y.device == y0.device,
                f"{subject.name}: dtype and device",
                wanted=f"a solution in the state's {dtype} on {y0.device}",
                got=f"{y.dtype} on {y.device}",
                look="tensors that the solver makes itself: give them y0's dtype and device, as y0.new_tensor(…) does",
            )
            require(
                seen == {dtype},
                f"{subject.name}: dtype and device",
                wanted=f"a field that is called with states of {dtype}",
                got=", ".join(map(str, seen)),
                look="what the steps are combined with: a float64 tensor of shape (1,) promotes a float32 state",
            )
            require(
                y.shape == (4, *y0.shape) and torch.equal(y[0], y0),
                f"{subject.name}: rows",
                wanted=f"a row for each of the 4 times, {(4, *y0.shape)}, the first of them the initial state",
                got=f"{tuple(y.shape)}" + ("" if y.shape != (4, *y0.shape) else " with another first row"),
                look="how the solution's rows are put together",
            )


def _like(value: Tensor, other: Tensor) -> Tensor:
    return value.to(other)


def tuple_states(subject: Subject) -> None:
    """A tuple of tensors is solved as the tensor that it makes, and comes back in its own shapes."""
    problem = subject.problem
    y0 = problem.solution(problem.t0)
    times = torch.linspace(problem.t0, problem.t1, 3, dtype=torch.float64)
    solver = subject.stepped(problem.span / 16)

    def on_pair(t: Tensor, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        slope = problem.field(t, torch.cat((pair[0][:, None], pair[1]), 1))
        return slope[:, 0], slope[:, 1:]

    with torch.no_grad():
        first, rest = solve(on_pair, (y0[:, 0], y0[:, 1:]), times, solver=solver).y
        whole = solve(problem.field, y0, times, solver=solver).y
    assert isinstance(whole, Tensor)
    joined = torch.cat((first[..., None], rest), -1)
    require(
        joined.shape == whole.shape and largest(joined - whole) < 100 * ROUNDING,
        f"{subject.name}: tuple states",
        wanted="the solution of the tensor that the tuple's leaves make",
        got=f"a difference of {largest(joined - whole):.1e}"
        if joined.shape == whole.shape
        else f"{tuple(joined.shape)}",
        look="whether the solver relies on the shape of the state: tuples come as one flat tensor",
    )


def batch_independence(subject: Subject) -> None:
    """With the same steps, a sample's solution does not depend on its batch mates."""
    problem = subject.problem
    y0 = problem.solution(problem.t0)
    t = torch.linspace(problem.t0, problem.t1, 4, dtype=torch.float64)
    solver = subject.stepped(problem.span / 16)
    with torch.no_grad():
        whole, alone = (solve(problem.field, start, t, solver=solver).y for start in (y0, y0[:1]))
    assert isinstance(whole, Tensor)
    assert isinstance(alone, Tensor)
    together = whole[:, :1]
    require(
        largest(together - alone) < 1e-9,
        f"{subject.name}: batch independence",
        wanted="the same solution of a sample alone and in a batch, the steps being the same",
        got=f"a difference of {largest(together - alone):.1e}",
        look="reductions over the state that enter it, such as a mean, a norm or a sum over dimension 0",
    )


def _errors_inside(subject: Subject) -> list[tuple[int, float]]:
    """(number of steps, largest error at three places inside each step)."""
    problem, found = subject.problem, list[tuple[int, float]]()
    for steps in (subject.coarse, 2 * subject.coarse, 4 * subject.coarse):
        h = problem.span / steps
        places = (torch.arange(steps)[:, None] + torch.tensor([0.2, 0.45, 0.7], dtype=torch.float64)).flatten() * h
        ends = torch.tensor([0.0, problem.span], dtype=torch.float64)
        t = problem.t0 + torch.cat((ends[:1], places, ends[1:]))
        y = subject.solve(steps, t=t).y
        assert isinstance(y, Tensor)
        truth = torch.stack([problem.solution(time) for time in t.tolist()])
        found.append((steps, largest(y - truth)))
    return found


def dense_output(subject: Subject) -> None:
    """At times inside the steps the error falls as fast as at their ends, or as fast as the interpolant allows."""
    errors = _errors_inside(subject)
    expected, solver = subject.dense_order, subject.stepped(subject.problem.span)
    if expected is None:
        interpolant = solver.tableau.interpolation_order if isinstance(solver, ExplicitRungeKutta) else 3
        expected = min(subject.order, interpolant + 1)
    require(
        _slope(errors) > expected - SLACK,
        f"{subject.name}: dense output",
        wanted=f"errors at times inside the steps that fall as h^{expected}",
        got=f"h^{_slope(errors):.2f} ({_listed(errors)})",
        look="the interpolant: its value and slope at both ends of a step, and the order that it claims; and at which "
        "place of the step it is evaluated",
    )


def output_times(subject: Subject) -> None:
    """How many times are asked for does not change the steps, and costs no more than the slope at each step's end."""
    problem = subject.problem
    many = subject.solve(16, t=torch.linspace(problem.t0, problem.t1, 60, dtype=torch.float64))
    few = subject.solve(16)
    difference = largest(many.y[-1] - few.y[-1])
    dearer = many.stats.nfe_forward - few.stats.nfe_forward
    require(
        difference < 100 * ROUNDING and (dearer <= 17 or not many.stats.accepted),  # a solver may hide its steps
        f"{subject.name}: output times",
        wanted="the same steps, whatever the times at which the solution is asked for",
        got=f"a difference of {difference:.1e} at the end, {many.stats.nfe_forward} evaluations at 60 times and "
        f"{few.stats.nfe_forward} at 2",
        look="whether steps end at output times: interpolate instead",
    )


def _loss(problem: Problem, solution: Solution) -> Tensor:
    y = solution.y
    assert isinstance(y, Tensor)
    return (y[1:] * torch.linspace(-1, 2, y[1:].numel(), dtype=y.dtype).view_as(y[1:])).sin().sum()


def _gradients(subject: Subject, steps: int, gradient: Gradient) -> list[Tensor]:
    """∂L/∂y₀ and ∂L/∂θ of a loss of three rows."""
    problem, params = subject.problem, list(subject.problem.field.parameters())
    y0 = problem.solution(problem.t0).requires_grad_()
    t = torch.linspace(problem.t0, problem.t1, 4, dtype=torch.float64)
    solver = subject.stepped(problem.span / steps)
    solution = solve(problem.field, y0, t, solver=solver, gradient=gradient)
    return list(torch.autograd.grad(_loss(problem, solution), [y0, *params]))


def backprop_against_finite_differences(subject: Subject) -> None:
    """Autograd through the solver gives the central differences of what it computes."""
    problem, params = subject.problem, list(subject.problem.field.parameters())
    found = _gradients(subject, subject.coarse, Backprop())
    t = torch.linspace(problem.t0, problem.t1, 4, dtype=torch.float64)
    y0 = problem.solution(problem.t0)
    solver, eps = subject.stepped(problem.span / subject.coarse), 1e-5

    def value() -> float:
        with torch.no_grad():
            return float(_loss(problem, solve(problem.field, y0, t, solver=solver)))

    for variable, gradient, name in zip(
        [y0, *params], found, ["y0", *dict(problem.field.named_parameters())], strict=True
    ):
        flat, differences = variable.detach().view(-1), list[float]()
        for place in range(flat.numel()):
            kept = float(flat[place])
            ends: list[float] = []
            for sign in (1, -1):
                flat[place] = kept + sign * eps
                ends.append(value())
            flat[place] = kept
            differences.append((ends[0] - ends[1]) / (2 * eps))
        error = relative(gradient.flatten(), torch.tensor(differences, dtype=torch.float64))
        require(
            error < 1e-6,
            f"{subject.name}: gradient",
            wanted=f"Backprop's gradient of {name} equal to central differences",
            got=f"a relative difference of {error:.1e}",
            look="operations that cut the graph (detach, item, numpy, no_grad) or overwrite what autograd keeps",
        )


def checkpointed_against_backprop(subject: Subject) -> None:
    """The gradient of the steps run again from the tape is autograd's."""
    pairs = zip(
        _gradients(subject, subject.coarse, Checkpointed()),
        _gradients(subject, subject.coarse, Backprop()),
        strict=True,
    )
    error = max(relative(replayed, plain) for replayed, plain in pairs)
    require(
        error < 1e-8,
        f"{subject.name}: Checkpointed",
        wanted="the gradient that Backprop gives",
        got=f"a relative difference of {error:.1e}",
        look="the tape: each segment's `rerun` must compute the same values again, from its start alone",
    )


def adjoint_against_backprop(subject: Subject) -> None:
    """The continuous adjoint, by quadrature and jumps, is close to the discrete gradient."""
    steps = 4 * subject.coarse
    try:
        found = _gradients(subject, steps, Adjoint())
    except StateError:  # the solver is for equations of a form that the adjoint's has not, and says so
        return
    pairs = zip(found, _gradients(subject, steps, Backprop()), strict=True)
    error = max(relative(continuous, plain) for continuous, plain in pairs)
    require(
        error < 0.1,
        f"{subject.name}: Adjoint",
        wanted=f"a gradient close to that of Backprop with {steps} steps",
        got=f"a relative difference of {error:.1e}",
        look="`quadrature`, which takes the side results of each accepted step with the method's weights, and `jump`, "
        "after which nothing remembered of the state holds",
    )


def statistics(subject: Subject) -> None:
    """What the statistics say is what happened."""
    problem, steps, calls = subject.problem, 16, 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return problem.field(t, y)

    y0, solver = problem.solution(problem.t0), subject.stepped(problem.span / steps)
    with torch.no_grad():
        stats = solve(counted, y0, [problem.t0, problem.t1], solver=solver).stats
    exact = stats.nfe_forward == calls
    require(  # columns of a Jacobian, which Newton's iteration takes at once, may count each
        exact or (calls < stats.nfe_forward <= 10 * calls and not isinstance(solver, ExplicitRungeKutta)),
        f"{subject.name}: statistics",
        wanted=f"nfe_forward = {calls}, as often as the field was called",
        got=str(stats.nfe_forward),
        look="where the solver counts evaluations; those of the first step's choice count too",
    )
    if not stats.accepted:  # the solver hides its steps
        return
    h = problem.span / steps
    require(
        stats.accepted == steps and stats.rejected == 0,
        f"{subject.name}: statistics",
        wanted=f"{steps} accepted steps and none rejected, with steps of {h:g} over {problem.span:g}",
        got=f"{stats.accepted} and {stats.rejected}",
        look="where steps are counted, and whether the last one is cut where it should end",
    )
    require(
        0 < stats.smallest_step <= stats.largest_step < h * 1.001,
        f"{subject.name}: statistics",
        wanted=f"smallest and largest step between 0 and {h:g}",
        got=f"{stats.smallest_step:g} and {stats.largest_step:g}",
        look="`Stats.count_step`, which takes the size without a sign",
    )


LAWS = (
    dtype_and_device,
    order,
    time_reversal,
    tuple_states,
    batch_independence,
    output_times,
    dense_output,
    backprop_against_finite_differences,
    checkpointed_against_backprop,
    adjoint_against_backprop,
    statistics,
)
