"""Subject: a solver under test, whose step size can be forced."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.gradients import Gradient
from odeflow.engine.loop.fixed import Fixed
from odeflow.engine.loop.stepper import Stepper
from odeflow.engine.output.solution import Solution
from odeflow.engine.solve import solve
from odeflow.engine.solver import Solver
from odeflow.errors import SettingError
from odeflow.testing.problem import Problem

ROUNDING = 1e-12  # errors below are affected by rounding


@dataclass(frozen=True)
class Subject:
    """A solver under test.

    Attributes:
        stepped: h ↦ the solver with fixed step size h.
        problem: The test problem.
        dense_order: Order of the error of the dense output; None for the default of the solver's kind.
        steps: The numbers of steps from which the order is estimated; None for a default by the declared order.
    """

    stepped: Callable[[float], Solver]
    problem: Problem
    dense_order: int | None = None
    steps: Sequence[int] | None = None

    @property
    def order(self) -> int:
        """The declared order."""
        return self.stepped(self.problem.span).order

    @property
    def coarse(self) -> int:
        """A number of steps at which a method of this order just resolves the problem."""
        return {1: 64, 2: 24}.get(self.order, 12)

    def solve(
        self, steps: int, *, problem: Problem | None = None, t: Tensor | None = None, gradient: Gradient | None = None
    ) -> Solution:
        """The problem solved in the given number of steps, at the times t or at both ends."""
        problem = problem or self.problem
        times = torch.tensor((problem.t0, problem.t1), dtype=torch.float64) if t is None else t
        y0 = problem.solution(float(times[0]))
        solver = self.stepped(problem.span / steps)
        with torch.set_grad_enabled(gradient is not None):
            return solve(problem.field, y0, times, solver=solver, gradient=gradient)


def stepping(solver: type[Solver] | Solver | Callable[[float], Solver]) -> Callable[[float], Solver]:
    """The function h ↦ the solver with fixed step size h.

    Raises:
        SettingError: The solver has no option `step_size`.
    """
    if isinstance(solver, Stepper):
        return lambda h: _solved(solver.with_control(Fixed(step_size=h)))
    if isinstance(solver, Solver):
        cls, settings = type(solver), dict[str, Any](solver.remembered_spec["init_args"])
    elif isinstance(solver, type):
        cls, settings = solver, dict[str, Any]()
    else:
        return solver
    if "step_size" not in inspect.signature(cls.__init__).parameters:
        raise SettingError(
            f"{cls.__name__} does not take step_size, so how to fix its steps is not known: pass a function, such as "
            f"check_solver(lambda h: {cls.__name__}(…)), that gives steps of size h"
        )
    settings.pop("num_steps", None)
    return lambda h: _solved(cls(**{**settings, "step_size": h}))


def _solved(solver: Solver) -> Solver:
    """The solver with its nonlinear equations solved up to rounding, so that only the method's error remains."""
    if isinstance(solver, Stepper) and solver.newton_tol is None:
        solver.newton_tol = ROUNDING / 10
    return solver
