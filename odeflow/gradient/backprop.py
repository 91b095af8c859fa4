"""Backprop: plain autograd through every accepted step."""

from dataclasses import replace

from torch import Tensor

from odeflow.gradient.base import Gradient
from odeflow.gradient.times import move_rows, on_fixed_clock
from odeflow.solver import Solution, Solver
from odeflow.state import Field


class Backprop(Gradient):
    """Discretise, then optimise: autograd records the solve and differentiates it.

    Exact for what was computed, and twice differentiable. Memory grows with the number of field evaluations.
    """

    needs_params = False

    def solve(self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...]) -> Solution:
        if not t.requires_grad:
            return solver.integrate(field, y0, t)
        solution = solver.integrate(on_fixed_clock(field, t), y0, t.detach())
        assert isinstance(solution.y, Tensor)
        return replace(solution, t=t, y=move_rows(field, t, solution.y))
