"""Backprop: backpropagation through every accepted step."""

from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.engine.gradients.base import Gradient
from odeflow.engine.output.mesh import Mesh
from odeflow.engine.output.solution import Solution
from odeflow.engine.solver import Solver
from odeflow.engine.tape import Observer


class Backprop(Gradient):
    """Discretise-then-optimise: autograd records and differentiates the solve.

    Exact for the discrete solution, and twice differentiable. Memory grows with the number of field evaluations.
    """

    needs_params = False
    exact = True

    def differentiate(
        self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...], mesh: Mesh | None
    ) -> Solution:
        return solver.integrate(field, y0, t, Observer(mesh))

    def compiles(self, mesh: Mesh | None) -> bool:
        return mesh is None  # with second derivatives the rows come from this class
