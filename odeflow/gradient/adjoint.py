"""Adjoint: the continuous adjoint equation, solved backwards in time."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from odeflow.gradient.base import Gradient
from odeflow.gradient.surroundings import Autocast
from odeflow.solver import Quadrature, Solution, Solver, Stats
from odeflow.state import Field


class Adjoint(Gradient):
    """Optimise, then discretise, at constant memory: Algorithms 1 and 2 of Chen et al. (2018).

    The state and its adjoint λ = ∂L/∂y follow

        dy/dt = f,    dλ/dt = −λᵀ ∂f/∂y,    ∂L/∂θ = ∫ λᵀ ∂f/∂θ dt

    backwards in time, the state reconstructed on the way; at each time that was asked for, λ grows by the loss's
    own ∂L/∂yᵢ and the state is set to what the forward pass found. ∂L/∂tᵢ = ∂L/∂yᵢ · f(tᵢ, yᵢ), and
    ∂L/∂t₀ = −λ(t₀) · f(t₀, y₀). State and adjoint are under error control; the parameters' integral is a
    quadrature over the same steps. The result is the gradient up to both solves' errors, not that of the discrete
    solution: choose tolerances accordingly.

    Args:
        solver: Solves the backward equation; by default the solver of the forward pass.
    """

    needs_params = True

    def __init__(self, solver: Solver | None = None) -> None:
        self.solver = solver

    def solve(self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...]) -> Solution:
        stats = Stats()
        y = _BackwardInTime.apply(solver, self.solver or solver, field, stats, y0, t, *params)
        return Solution(t, y, stats)  # pyright: ignore[reportArgumentType]


class _BackwardInTime(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        solver: Solver,
        backward_solver: Solver,
        field: Field,
        stats: Stats,
        y0: Tensor,
        t: Tensor,
        *params: Tensor,
    ) -> Tensor:
        ctx.autocast = Autocast(y0)
        with ctx.autocast.again():
            solution = solver.integrate(field, y0, t.detach())
        vars(stats).update(vars(solution.stats))
        assert isinstance(solution.y, Tensor)
        ctx.solver, ctx.field, ctx.stats, ctx.params = backward_solver, field, stats, params
        ctx.save_for_backward(t.detach(), solution.y)
        return solution.y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad_y,) = grad_outputs
        field: Field = ctx.field
        params: tuple[Tensor, ...] = ctx.params
        t, y = ctx.saved_tensors
        quadrature = Quadrature(len(params))

        def augmented(time: Tensor, pair: Tensor) -> Tensor:
            """(dy/dt, dλ/dt) at (y, λ), with dλ/dt's companion −λᵀ ∂f/∂θ on the side."""
            with torch.enable_grad(), ctx.autocast.again():
                state = pair[0].detach().requires_grad_()
                slope = field(time, state).to(state)
                if not slope.requires_grad:
                    quadrature.integrand = (None,) * len(params)
                    return torch.stack((slope, torch.zeros_like(slope)))
                change, *integrand = torch.autograd.grad(slope, (state, *params), -pair[1], allow_unused=True)
            quadrature.integrand = integrand
            absent = change is None  # pyright: ignore[reportUnnecessaryComparison]
            return torch.stack((slope.detach(), torch.zeros_like(slope) if absent else change))

        def jump(number: int, pair: Tensor) -> Tensor:
            """Adds the loss's own part at the output time that was reached, and sets the state to the stored one."""
            row = len(t) - 1 - number
            return torch.stack((y[row], pair[1] + grad_y[row])) if row else pair

        pair = torch.stack((y[-1], grad_y[-1]))
        backward = ctx.solver.integrate(augmented, pair, t.flip(0), quadrature=quadrature, jump=jump)
        ctx.stats.nfe_backward += backward.stats.nfe_forward
        adjoint = backward.y[-1][1]
        grad_t = _time_gradients(field, t, y, grad_y, adjoint) if ctx.needs_input_grad[5] else None
        return None, None, None, None, adjoint + grad_y[0], grad_t, *quadrature.total


def _time_gradients(field: Field, t: Tensor, y: Tensor, grad_y: Tensor, adjoint: Tensor) -> Tensor:
    """(T,), ∂L/∂t by Algorithm 2; `adjoint` is λ just after the first time."""
    weights = [-adjoint, *grad_y[1:]]
    slopes = [field(time.to(row), row) for time, row in zip(t, y, strict=True)]
    return torch.stack([(weight * slope).sum() for weight, slope in zip(weights, slopes, strict=True)]).to(t)
