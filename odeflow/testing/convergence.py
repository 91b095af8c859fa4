"""The laws of convergence: how the errors of a solver fall with its step size."""

import math
from collections.abc import Callable, Sequence

import torch

from odeflow.engine.methods.implicit import ImplicitRungeKutta
from odeflow.engine.methods.runge_kutta import RungeKutta
from odeflow.engine.solve import solve
from odeflow.engine.solver import Solver
from odeflow.testing.conformance import largest, require
from odeflow.testing.problem import SPIRAL, Problem
from odeflow.testing.subject import ROUNDING, Subject, stepping

REVERSIBLE = 1e-6  # symmetric methods return up to the tolerance of their nonlinear solver, at any step size
SLACK = 0.4  # of an observed order


def observed_order(
    solver: type[Solver] | Solver | Callable[[float], Solver],
    *,
    problem: Problem = SPIRAL,
    steps: Sequence[int] | None = None,
) -> tuple[float, float]:
    """The observed orders of convergence: at the ends of steps, and inside the steps.

    Args:
        solver: As for `solver_checks`.
        problem: The test problem.
        steps: The numbers of steps, ascending; the default suits one-step methods of the solver's order. Multistep
            methods of high order need more for stability.
    """
    subject = Subject(stepping(solver), problem, steps=steps)
    return _slope(_errors(subject, problem)), _slope(_errors_inside(subject))


def _errors(subject: Subject, problem: Problem) -> list[tuple[int, float]]:
    """(number of steps, error halfway and at the end) for step sizes that are halved twice, mostly above rounding."""
    least = 48 if subject.order < 4 else 24 if subject.order < 7 else 8
    t = torch.linspace(problem.t0, problem.t1, 3, dtype=torch.float64)
    truth = torch.stack([problem.solution(time) for time in t.tolist()])
    found: list[tuple[int, float]] = []
    for steps in subject.steps or (least, 2 * least, 4 * least):
        y = subject.solve(steps, problem=problem, t=t).y
        found.append((steps, float((y - truth).norm())))
    return found


def _errors_inside(subject: Subject) -> list[tuple[int, float]]:
    """(number of steps, largest error at three points inside each step)."""
    problem, found = subject.problem, list[tuple[int, float]]()
    for steps in subject.steps or (subject.coarse, 2 * subject.coarse, 4 * subject.coarse):
        h = problem.span / steps
        places = (torch.arange(steps)[:, None] + torch.tensor([0.2, 0.45, 0.7], dtype=torch.float64)).flatten() * h
        ends = torch.tensor([0.0, problem.span], dtype=torch.float64)
        t = problem.t0 + torch.cat((ends[:1], places, ends[1:]))
        y = subject.solve(steps, t=t).y
        truth = torch.stack([problem.solution(time) for time in t.tolist()])
        found.append((steps, largest(y - truth)))
    return found


def _slope(errors: list[tuple[int, float]]) -> float:
    """The slope of log error against log step size, over the errors above rounding."""
    clear = [pair for pair in errors if pair[1] > ROUNDING] or errors[:1]
    (few, first), (many, last) = clear[0], clear[-1]
    return math.log(first / last) / math.log(many / few) if many > few else 0.0


def _listed(errors: list[tuple[int, float]]) -> str:
    return ", ".join(f"{error:.1e} in {steps} steps" for steps, error in errors)


def order(subject: Subject) -> None:
    """The error falls as the step size to the power of the declared order."""
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
        wanted=f"errors that fall as h^{subject.order} on {subject.problem.formula}",
        got=f"h^{slope:.2f} ({_listed(errors)})",
        look=look,
    )


def time_reversal(subject: Subject) -> None:
    """Backward integration from the end passes the forward states at inner times and returns to the start.

    The error decreases with the step size.
    """
    problem = subject.problem
    t = torch.linspace(problem.t1, problem.t0, 4, dtype=torch.float64)
    truth = torch.stack([problem.solution(time) for time in t.tolist()])
    errors: list[tuple[int, float]] = []
    for steps in (subject.coarse, 2 * subject.coarse, 4 * subject.coarse):
        end = subject.solve(steps).y[-1]
        with torch.no_grad():
            back = solve(problem.field, end, t, solver=subject.stepped(problem.span / steps)).y
        errors.append((steps, largest(back[1:] - truth[1:])))
    require(
        max(error for _, error in errors) < REVERSIBLE or _slope(errors) > _dense_order(subject) / 2,
        wanted=f"a return to the start up to an error that falls as h^{subject.order}",
        got=f"h^{_slope(errors):.2f} ({_listed(errors)})",
        look="the sign of the steps where the times decrease",
    )


def _dense_order(subject: Subject) -> int:
    """The power of the step size with which errors at times inside the steps should fall."""
    if subject.dense_order is not None:
        return subject.dense_order
    solver = subject.stepped(subject.problem.span)
    runge_kutta = isinstance(solver, RungeKutta | ImplicitRungeKutta)
    interpolant = solver.tableau.interpolation_order if runge_kutta else 3
    return min(subject.order, interpolant + 1)


def dense_output(subject: Subject) -> None:
    """Inside the steps the error falls as fast as at their ends, or as fast as the interpolant allows."""
    errors = _errors_inside(subject)
    expected = _dense_order(subject)
    require(
        _slope(errors) > expected - SLACK,
        wanted=f"errors at times inside the steps that fall as h^{expected}",
        got=f"h^{_slope(errors):.2f} ({_listed(errors)})",
        look="the interpolant: its value and derivative at both ends of a step, the order that it claims, and at which "
        "point of the step it is evaluated",
    )
