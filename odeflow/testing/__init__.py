"""Conformance tests for plugins: each law separately, or all at once.

With pytest:

    from odeflow.testing import solver_checks

    @pytest.mark.parametrize("check", solver_checks(MySolver), ids=str)
    def test_my_solver(check):
        check()

Without pytest, `check_solver(MySolver)` runs all of them. A violated law raises `odeflow.ConformanceError`, an
AssertionError that says what was wanted, what was got, and where to look.
"""

from odeflow.testing.conformance import Check
from odeflow.testing.convergence import observed_order
from odeflow.testing.dynamics import check_dynamics, dynamics_checks
from odeflow.testing.gradient import check_gradient, gradient_checks
from odeflow.testing.problem import PARTICLE, SPIRAL, Problem
from odeflow.testing.solver import check_solver, solver_checks
from odeflow.testing.task import check_task, task_checks

__all__ = [
    "PARTICLE",
    "SPIRAL",
    "Check",
    "Problem",
    "check_dynamics",
    "check_gradient",
    "check_solver",
    "check_task",
    "dynamics_checks",
    "gradient_checks",
    "observed_order",
    "solver_checks",
    "task_checks",
]
