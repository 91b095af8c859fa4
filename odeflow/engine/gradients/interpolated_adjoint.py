"""InterpolatedAdjoint: the continuous adjoint, with the state from the forward pass."""

from typing import Any

from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.engine.gradients.adjoint import BackwardInTime, linearised
from odeflow.engine.gradients.base import Gradient
from odeflow.engine.output.interpolant import Mesh
from odeflow.engine.output.solution import Solution, Stats
from odeflow.engine.solver import Solver
from odeflow.engine.tape import Observer, Quadrature, Segment, Tape


class InterpolatedAdjoint(Gradient):
    """The continuous adjoint, which reads the state from the forward pass's dense output.

    As `Adjoint`, but the state is not reconstructed backwards in time, which is unstable where the dynamics
    contract. Memory grows by the slopes of each accepted step.

    Source: Rackauckas et al. (2020), "Universal Differential Equations", section on adjoints.

    Args:
        solver: Solves the backward equation; by default the solver of the forward pass.
    """

    needs_params = True

    def __init__(self, solver: Solver | None = None) -> None:
        self.solver = solver

    def solve(
        self,
        solver: Solver,
        field: Field,
        y0: Tensor,
        t: Tensor,
        params: tuple[Tensor, ...],
        mesh: Mesh | None = None,
    ) -> Solution:
        self.refuse(mesh is not None, "dense output and events")
        self.refuse(solver.per_sample, "per_sample=True: it reads all samples' states at common times from one step")
        stats = Stats()
        tape = Tape(dense=True)
        y = BackwardInTime.apply(
            solver, self.solver or solver, _backward_interpolated, tape, field, stats, y0, t, *params
        )
        return Solution(t, y, stats)  # pyright: ignore[reportArgumentType]


def _backward_interpolated(ctx: Any, t: Tensor, y: Tensor, grad_y: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """(λ(t₀), ∂L/∂θ), with the adjoint under error control and the state from the tape."""
    quadrature = Quadrature(len(ctx.params))
    state = _Interpolated(ctx.tape.segments)

    def augmented(time: Tensor, adjoint: Tensor) -> Tensor:
        _, change, quadrature.integrand = linearised(ctx, time, state(float(time)), adjoint)
        return change

    def jump(number: int, adjoint: Tensor) -> Tensor:
        row = len(t) - 1 - number
        return adjoint + grad_y[row] if row else adjoint

    observer = Observer(quadrature=quadrature, jump=jump)
    backward = ctx.solver.integrate(augmented, grad_y[-1].contiguous(), t.flip(0), observer)
    ctx.stats.nfe_backward += backward.stats.nfe_forward
    return backward.y[-1], quadrature.total


class _Interpolated:
    """The state as a function of time, from segments in the order of the solve; best asked for neighbouring times."""

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
