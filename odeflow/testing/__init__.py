"""Conformance tests for plugins: each law separately, or all at once.

With pytest:

    from odeflow.testing import solver_checks

    @pytest.mark.parametrize("check", solver_checks(MySolver), ids=str)
    def test_my_solver(check):
        check()

Without pytest, `check_solver(MySolver)` runs all of them. A violated law raises `odeflow.ConformanceError`, an
AssertionError that says what was wanted, what was got, and where to look.
"""

from odeflow.testing.conformance import Check as Check
from odeflow.testing.convergence import observed_order as observed_order
from odeflow.testing.data import check_data as check_data
from odeflow.testing.data import data_checks as data_checks
from odeflow.testing.dynamics import check_dynamics as check_dynamics
from odeflow.testing.dynamics import dynamics_checks as dynamics_checks
from odeflow.testing.gradient import check_gradient as check_gradient
from odeflow.testing.gradient import gradient_checks as gradient_checks
from odeflow.testing.problem import PARTICLE as PARTICLE
from odeflow.testing.problem import SPIRAL as SPIRAL
from odeflow.testing.problem import Problem as Problem
from odeflow.testing.regularizer import check_regularizer as check_regularizer
from odeflow.testing.regularizer import regularizer_checks as regularizer_checks
from odeflow.testing.solver import check_solver as check_solver
from odeflow.testing.solver import solver_checks as solver_checks
from odeflow.testing.task import check_task as check_task
from odeflow.testing.task import task_checks as task_checks
