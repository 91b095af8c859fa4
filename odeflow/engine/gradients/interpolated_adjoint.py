"""InterpolatedAdjoint: the continuous adjoint with the state from dense output."""

from functools import partial

import torch
from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.engine.gradients.adjoint import AdjointEquation, backward_solver
from odeflow.engine.gradients.backward import with_backward
from odeflow.engine.gradients.base import Gradient
from odeflow.engine.output.mesh import Mesh
from odeflow.engine.output.solution import Solution
from odeflow.engine.solver import Solver
from odeflow.engine.tape import Observer, Quadrature, Segment, Tape


class InterpolatedAdjoint(Gradient):
    """The continuous adjoint with the state from the dense output of the forward pass.

    As `Adjoint`, but without reconstructing the state backward in time, which is unstable for contracting dynamics.
    Memory grows by the stage derivatives of each accepted step.

    Source: Rackauckas et al. (2020), "Universal Differential Equations", section on adjoints.

    Args:
        solver: The solver of the backward equation; by default that of the forward pass.
    """

    needs_params = True
    discrete = False
    unsupported = frozenset({"dense output and events", "per_sample=True", "black-box solvers", "stochastic equations"})

    def __init__(self, solver: Solver | None = None) -> None:
        self.solver = solver

    def differentiate(
        self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...], mesh: Mesh | None
    ) -> Solution:
        tape = Tape(dense=True)
        with torch.no_grad():
            solution = solver.integrate(field, y0, t, Observer(tape=tape))
        equation = AdjointEquation(backward_solver(self.solver, solver), field, params, solution.stats)
        return with_backward(solution, partial(_backward, equation, tape.segments), y0, params, t)


def _backward(
    equation: AdjointEquation, segments: list[Segment], grad_y: Tensor, t: Tensor
) -> tuple[Tensor, list[Tensor | None]]:
    """(∂L/∂y₀, ∂L/∂θ), with the adjoint under error control and the state from the segments."""
    quadrature = Quadrature(len(equation.params))
    state = _Interpolated(segments)

    def augmented(time: Tensor, adjoint: Tensor) -> Tensor:
        _, change, quadrature.integrand = equation.linearised(time, state(float(time)), adjoint)
        return change

    def jump(number: int, adjoint: Tensor) -> Tensor:
        return adjoint + grad_y[-1 - number]

    observer = Observer(quadrature=quadrature, jump=jump)
    adjoint = equation.solve(augmented, grad_y[-1].contiguous(), t, observer)
    return adjoint + grad_y[0], quadrature.total


class _Interpolated:
    """The state as a function of time, from segments in the order of the solve. Fastest for neighbouring times."""

    def __init__(self, segments: list[Segment]) -> None:
        self.segments, self.number = segments, len(segments) - 1

    def __call__(self, time: float) -> Tensor:
        while self.number > 0 and self._place(time) < 0:
            self.number -= 1
        while self.number < len(self.segments) - 1 and self._place(time) > 1:
            self.number += 1
        dense = self.segments[self.number].dense
        assert dense is not None
        return dense(self._place(time))

    def _place(self, time: float) -> float:
        span = self.segments[self.number].span
        assert span is not None
        start, end = span
        return (time - start) / (end - start)
