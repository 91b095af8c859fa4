"""The laws of solvers."""

from collections.abc import Callable

import torch
from torch import Tensor

from odeflow.engine.methods.runge_kutta import RungeKutta
from odeflow.engine.solve import solve
from odeflow.engine.solver import Solver
from odeflow.testing.conformance import Check, all_of, checks_of, largest, require
from odeflow.testing.convergence import dense_output, order, time_reversal
from odeflow.testing.differentiation import (
    adjoint_against_backprop,
    backprop_against_finite_differences,
    checkpointed_against_backprop,
    values_under_autograd,
)
from odeflow.testing.problem import SPIRAL, Problem
from odeflow.testing.subject import ROUNDING, Subject, stepping


def solver_checks(
    solver: type[Solver] | Solver | Callable[[float], Solver],
    *,
    problem: Problem = SPIRAL,
    dense_order: int | None = None,
) -> list[Check]:
    """The laws of solvers, each as a check: for `pytest.mark.parametrize("check", …, ids=str)`.

    Args:
        solver: The class, or an instance whose other options are kept, if it takes `step_size`; otherwise a function
            h ↦ solver with fixed step size h.
        problem: The test problem; `PARTICLE` for solvers of second-order equations.
        dense_order: Order of the error of the dense output. By default the method's order, or that of its interpolant:
            4 with cubic Hermite.
    """
    subject = Subject(stepping(solver), problem, dense_order)
    return checks_of(type(subject.stepped(problem.span)).__name__, subject, LAWS)


check_solver = all_of(solver_checks)
"""Checks all of them, without pytest."""


def dtype_and_device(subject: Subject) -> None:
    """The solution has the state's dtype and device, starts with the initial state, and has a row for each time."""
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
            require(
                y.dtype == dtype and y.device == y0.device,
                wanted=f"a solution in the state's {dtype} on {y0.device}",
                got=f"{y.dtype} on {y.device}",
                look="tensors that the solver makes itself: give them y0's dtype and device, as y0.new_tensor(…) does",
            )
            require(
                seen == {dtype},
                wanted=f"a field that is called with states of {dtype}",
                got=", ".join(map(str, seen)),
                look="what the steps are combined with: a float64 tensor of shape (1,) promotes a float32 state",
            )
            require(
                y.shape == (4, *y0.shape) and torch.equal(y[0], y0),
                wanted=f"a row for each of the 4 times, {(4, *y0.shape)}, the first of them the initial state",
                got=f"{tuple(y.shape)}" + ("" if y.shape != (4, *y0.shape) else " with another first row"),
                look="how the solution's rows are put together",
            )


def _like(value: Tensor, other: Tensor) -> Tensor:
    return value.to(other)


def tuple_states(subject: Subject) -> None:
    """A tuple of tensors is solved like its concatenation, and returned in the original shapes."""
    problem = subject.problem
    y0 = problem.solution(problem.t0)
    times = torch.linspace(problem.t0, problem.t1, 3, dtype=torch.float64)
    solver = subject.stepped(problem.span / 16)

    def on_pair(t: Tensor, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        f = problem.field(t, torch.cat((pair[0][:, None], pair[1]), 1))
        return f[:, 0], f[:, 1:]

    with torch.no_grad():
        first, rest = solve(on_pair, (y0[:, 0], y0[:, 1:]), times, solver=solver).y
        whole = solve(problem.field, y0, times, solver=solver).y
    joined = torch.cat((first[..., None], rest), -1)
    require(
        joined.shape == whole.shape and largest(joined - whole) < 100 * ROUNDING,
        wanted="the solution of the tensor that the tuple's leaves make",
        got=f"a difference of {largest(joined - whole):.1e}"
        if joined.shape == whole.shape
        else f"{tuple(joined.shape)}",
        look="whether the solver relies on the shape of the state: tuples come as one flat tensor",
    )


def batch_independence(subject: Subject) -> None:
    """With the same steps, a sample's solution does not depend on the rest of its batch."""
    problem = subject.problem
    y0 = problem.solution(problem.t0)
    t = torch.linspace(problem.t0, problem.t1, 4, dtype=torch.float64)
    solver = subject.stepped(problem.span / 16)
    with torch.no_grad():
        whole, alone = (solve(problem.field, start, t, solver=solver).y for start in (y0, y0[:1]))
    together = whole[:, :1]
    require(
        largest(together - alone) < 1e-9,
        wanted="the same solution of a sample alone and in a batch, the steps being the same",
        got=f"a difference of {largest(together - alone):.1e}",
        look="reductions over the state that enter it, such as a mean, a norm or a sum over dimension 0",
    )


def output_times(subject: Subject) -> None:
    """Output times do not change the steps, and cost at most the stage derivative at the end of each step."""
    problem = subject.problem
    many = subject.solve(16, t=torch.linspace(problem.t0, problem.t1, 60, dtype=torch.float64))
    few = subject.solve(16)
    difference = largest(many.y[-1] - few.y[-1])
    dearer = many.stats.nfe_forward - few.stats.nfe_forward
    require(
        difference < 100 * ROUNDING and (dearer <= 17 or not many.stats.accepted),  # black-box solvers count no steps
        wanted="the same steps for any output times",
        got=f"a difference of {difference:.1e} at the end, {many.stats.nfe_forward} evaluations at 60 times and "
        f"{few.stats.nfe_forward} at 2",
        look="whether steps end at output times: interpolate instead",
    )


def statistics(subject: Subject) -> None:
    """The statistics agree with the solve."""
    problem, steps, calls = subject.problem, 16, 0

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return problem.field(t, y)

    y0, solver = problem.solution(problem.t0), subject.stepped(problem.span / steps)
    with torch.no_grad():
        stats = solve(counted, y0, [problem.t0, problem.t1], solver=solver).stats
    exact = stats.nfe_forward == calls
    require(  # the columns of a Jacobian, evaluated together, may count separately
        exact or (calls < stats.nfe_forward <= 10 * calls and not isinstance(solver, RungeKutta)),
        wanted=f"nfe_forward = {calls}, as often as the field was called",
        got=str(stats.nfe_forward),
        look="where the solver counts evaluations; those of the first step's choice count too",
    )
    if not stats.accepted:  # a black-box solver
        return
    h = problem.span / steps
    require(
        stats.accepted == steps and stats.rejected == 0,
        wanted=f"{steps} accepted steps and none rejected, with steps of {h:g} over {problem.span:g}",
        got=f"{stats.accepted} and {stats.rejected}",
        look="where steps are counted, and whether the last one is cut where it should end",
    )
    require(
        0 < stats.smallest_step <= stats.largest_step < h * 1.001,
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
    values_under_autograd,
    backprop_against_finite_differences,
    checkpointed_against_backprop,
    adjoint_against_backprop,
    statistics,
)
