"""Backprop: plain autograd through every accepted step."""

from dataclasses import replace
from functools import partial

from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.engine.gradients.base import Gradient
from odeflow.engine.gradients.times import move_rows, moved, on_fixed_clock
from odeflow.engine.output.interpolant import Mesh
from odeflow.engine.output.solution import Solution
from odeflow.engine.solver import Solver
from odeflow.engine.tape import Observer


class Backprop(Gradient):
    """Discretise, then optimise: autograd records the solve and differentiates it.

    Exact for what was computed, and twice differentiable. Memory grows with the number of field evaluations.
    """

    needs_params = False

    def solve(
        self,
        solver: Solver,
        field: Field,
        y0: Tensor,
        t: Tensor,
        params: tuple[Tensor, ...],
        mesh: Mesh | None = None,
    ) -> Solution:
        observer = Observer(mesh)
        if not t.requires_grad:
            return solver.integrate(field, y0, t, observer).select_outputs(mesh)
        solution = solver.integrate(on_fixed_clock(field, t, solver.jump_ts), y0, t.detach(), observer)
        solution = solution.select_outputs(mesh, partial(moved, t, solver.jump_ts))
        y = move_rows(field, t, solution.y, solver.jump_ts)
        return replace(solution, t=t[..., : len(y)], y=y)
