"""Adjoint: the continuous adjoint equation, solved backwards in time."""

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
from odeflow.errors import SettingError


class Adjoint(Gradient):
    """Optimise, then discretise, at constant memory: Algorithms 1 and 2 of Chen et al. (2018).

    The state and its adjoint λ = ∂L/∂y follow

        dy/dt = f,    dλ/dt = −λᵀ ∂f/∂y,    ∂L/∂θ = ∫ λᵀ ∂f/∂θ dt

    backwards in time, the state reconstructed on the way; at each time that was asked for, λ grows by the loss's
    own ∂L/∂yᵢ and the state is set to what the forward pass found. ∂L/∂tᵢ = ∂L/∂yᵢ · f(tᵢ, yᵢ), and
    ∂L/∂t₀ = −λ(t₀) · f(t₀, y₀). The result is the gradient up to both solves' errors, not that of the discrete
    solution: choose tolerances accordingly. The backward equation is solved for all samples together, also where the
    forward pass steps per sample, or its norm is "max_sample".

    Args:
        solver: Solves the backward equation; by default the solver of the forward pass.
        norm: What is under error control backwards: "seminorm", state and adjoint, the parameters' integral being
            a quadrature over the same steps (Kidger et al. 2021); "full", the parameters' integral too.

    Raises:
        SettingError: There is no such norm.
    """

    needs_params = True
    discrete = False
    unsupported = frozenset({"dense output and events", "times of each sample's own, (B, T)"})

    def __init__(self, solver: Solver | None = None, norm: Literal["seminorm", "full"] = "seminorm") -> None:
        if norm not in ("seminorm", "full"):
            raise SettingError(f"Adjoint: norm must be 'seminorm' or 'full'; got {norm!r}")
        self.solver, self.norm = solver, norm

    def differentiate(
        self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...], mesh: Mesh | None
    ) -> Solution:
        with torch.no_grad():
            solution = solver.integrate(field, y0, t)
        equation = AdjointEquation(_by_rms(self.solver or solver), field, params, solution.stats)
        backward = partial(_backward_full if self.norm == "full" else _backward_seminorm, equation)
        return with_backward(solution, backward, y0, params, t, solution.y)


def _by_rms(solver: Solver) -> Solver:
    """The solver for states in which no dimension is that of samples: whose error's norm is over everything."""
    if isinstance(solver, Stepper) and isinstance(solver.control, Adaptive):
        return solver.with_control(replace(solver.control, norm="rms"))
    return solver


@dataclass(frozen=True)
class AdjointEquation:
    """dλ/dt = −λᵀ ∂f/∂y along a solution, solved backwards in time.

    Attributes:
        solver: Solves it.
        field: The vector field f.
        params: The parameters θ.
        stats: Of the forward pass, to which the evaluations of the backward pass are added.
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
        """What is integrated with the adjoint, at the first of the times t and before its jump, from the last."""
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
        """Adds the loss's own part at the output time that was reached, and sets the state to the stored one."""
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
        return packing.pack((slope, change, *sides))

    def jump(number: int, packed: Tensor) -> Tensor:
        row = -1 - number
        _, adjoint, *sides = packing.unpack(packed)
        return packing.pack((y[row], adjoint + grad_y[row], *sides))

    start = packing.pack((y[-1], grad_y[-1], *(torch.zeros_like(param) for param in params)))
    _, adjoint, *grads = packing.unpack(equation.solve(augmented, start, t, Observer(jump=jump)))
    return adjoint + grad_y[0], [grad if present else None for grad, present in zip(grads, used, strict=True)]
