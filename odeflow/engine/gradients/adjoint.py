"""Adjoint: the continuous adjoint equation, solved backward in time."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from odeflow.engine.equation.field import full_precision
from odeflow.engine.equation.state import Field, Packing
from odeflow.engine.gradients.backward import with_backward
from odeflow.engine.gradients.base import Gradient
from odeflow.engine.loop.adaptive import Adaptive
from odeflow.engine.loop.stepper import Stepper
from odeflow.engine.output.mesh import Mesh
from odeflow.engine.output.solution import Solution, Stats
from odeflow.engine.solver import Solver
from odeflow.engine.tape import Observer, Quadrature


class Adjoint(Gradient):
    """Optimise-then-discretise at constant memory: Algorithms 1 and 2 of Chen et al. (2018).

    The state and its adjoint λ = ∂L/∂y follow

        dy/dt = f,    dλ/dt = −λᵀ ∂f/∂y,    ∂L/∂θ = ∫ λᵀ ∂f/∂θ dt

    backward in time, which reconstructs the state. At each requested time, ∂L/∂yᵢ is added to λ and the state is reset
    to that of the forward pass. ∂L/∂tᵢ = ∂L/∂yᵢ · f(tᵢ, yᵢ), and ∂L/∂t₀ = −λ(t₀) · f(t₀, y₀). The result approximates
    the gradient up to the errors of both solves, and is not the gradient of the discrete solution: choose the
    tolerances accordingly. The backward equation is solved jointly for all samples, even if the forward pass steps per
    sample or uses the norm "max_sample".

    Args:
        solver: The solver of the backward equation; by default that of the forward pass.
        norm: The variables under error control in the backward solve: "seminorm", state and adjoint only, with the
            parameters' integral as a quadrature over the same steps (Kidger et al. 2021); "full", that integral too.

    Raises:
        SettingError: `norm` is unknown.
    """

    needs_params = True
    discrete = False
    unsupported = frozenset({"dense output and events", "times of each sample's own, (B, T)", "stochastic equations"})

    def __init__(self, solver: Solver | None = None, norm: Literal["seminorm", "full"] = "seminorm") -> None:
        self.solver, self.norm = solver, norm

    def differentiate(
        self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...], mesh: Mesh | None
    ) -> Solution:
        with torch.no_grad():
            solution = solver.integrate(field, y0, t)
        equation = AdjointEquation(_by_rms(backward_solver(self.solver, solver)), field, params, solution.stats)
        backward = partial(_backward_full if self.norm == "full" else _backward_seminorm, equation)
        return with_backward(solution, backward, y0, params, t, solution.y)


def backward_solver(own: Solver | None, forward: Solver) -> Solver:
    """The solver of the backward equation, which has the discontinuities of the forward pass."""
    if own is None or not forward.jump_ts:
        return own or forward
    return own.stopping_at(forward.jump_ts)


def _by_rms(solver: Solver) -> Solver:
    """The solver with the norm "rms", for states without a batch dimension."""
    if isinstance(solver, Stepper) and isinstance(solver.control, Adaptive):
        return solver.with_control(replace(solver.control, norm="rms"))
    return solver


@dataclass(frozen=True)
class AdjointEquation:
    """dλ/dt = −λᵀ ∂f/∂y along a solution, solved backward in time.

    Attributes:
        solver: The solver.
        field: The vector field f.
        params: The parameters θ.
        stats: Statistics of the forward pass; the evaluations of the backward pass are added.
    """

    solver: Solver
    field: Field
    params: tuple[Tensor, ...]
    stats: Stats

    def linearised(self, t: Tensor, y: Tensor, adjoint: Tensor) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """f, −λᵀ ∂f/∂y and −λᵀ ∂f/∂θ at (t, y)."""
        with torch.enable_grad(), full_precision(y):
            state = y.detach().requires_grad_()
            slope = self.field(t, state).to(state)
            if not slope.requires_grad:
                return slope, torch.zeros_like(slope), [None] * len(self.params)
            grads: tuple[Any, ...] = torch.autograd.grad(slope, (state, *self.params), -adjoint, allow_unused=True)
        change, *integrand = grads
        return slope.detach(), torch.zeros_like(slope) if change is None else change, integrand

    def solve(self, augmented: Field, start: Tensor, t: Tensor, observer: Observer) -> Tensor:
        """Solves the augmented equation backward; the result is at the first of the times t, before its jump."""
        solution = self.solver.integrate(augmented, start, t.flip(0), observer)
        self.stats.nfe_backward += solution.stats.nfe_forward
        return solution.y[-1]


def _backward_seminorm(
    equation: AdjointEquation, grad_y: Tensor, t: Tensor, y: Tensor
) -> tuple[Tensor, list[Tensor | None]]:
    """(∂L/∂y₀, ∂L/∂θ), with state and adjoint under error control."""
    quadrature = Quadrature(len(equation.params))

    def augmented(time: Tensor, pair: Tensor) -> Tensor:
        slope, change, quadrature.integrand = equation.linearised(time, pair[0], pair[1])
        return torch.stack((slope, change))

    def jump(number: int, pair: Tensor) -> Tensor:
        """Adds ∂L/∂yᵢ at an output time to the adjoint, and resets the state to the stored one."""
        row = -1 - number
        return torch.stack((y[row], pair[1] + grad_y[row]))

    pair = torch.stack((y[-1], grad_y[-1]))
    end = equation.solve(augmented, pair, t, Observer(quadrature=quadrature, jump=jump))
    return end[1] + grad_y[0], quadrature.total


def _backward_full(
    equation: AdjointEquation, grad_y: Tensor, t: Tensor, y: Tensor
) -> tuple[Tensor, list[Tensor | None]]:
    """(∂L/∂y₀, ∂L/∂θ), with state, adjoint and the parameters' integral under error control."""
    params = equation.params
    used = [False] * len(params)
    packing = Packing((y[0].shape, y[0].shape, *(param.shape for param in params)))

    def augmented(time: Tensor, packed: Tensor) -> Tensor:
        state, adjoint, *_ = packing.unpack(packed)
        slope, change, integrand = equation.linearised(time, state, adjoint)
        for number, value in enumerate(integrand):
            used[number] |= value is not None
        sides = (
            torch.zeros_like(param) if value is None else value for param, value in zip(params, integrand, strict=True)
        )
        return packing.pack((slope, change, *(side.to(slope) for side in sides)))

    def jump(number: int, packed: Tensor) -> Tensor:
        row = -1 - number
        _, adjoint, *sides = packing.unpack(packed)
        return packing.pack((y[row], adjoint + grad_y[row], *sides))

    start = packing.pack((y[-1], grad_y[-1], *(y.new_zeros(param.shape) for param in params)))
    _, adjoint, *grads = packing.unpack(equation.solve(augmented, start, t, Observer(jump=jump)))
    of_params = [grad.to(param) if each else None for grad, param, each in zip(grads, params, used, strict=True)]
    return adjoint + grad_y[0], of_params
