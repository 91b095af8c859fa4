"""Adjoint: the continuous adjoint equation, solved backwards in time."""

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from odeflow.engine.equation.field import full_precision
from odeflow.engine.equation.state import Field, Packing
from odeflow.engine.gradients.base import Gradient
from odeflow.engine.gradients.first_order_only import first_order_only
from odeflow.engine.loop.stepper import AdaptiveStepper
from odeflow.engine.output.interpolant import Mesh
from odeflow.engine.output.solution import Solution, Stats
from odeflow.engine.solver import Solver
from odeflow.engine.tape import Observer, Quadrature, Tape
from odeflow.errors import GradientError, SettingError


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

    def __init__(self, solver: Solver | None = None, norm: Literal["seminorm", "full"] = "seminorm") -> None:
        if norm not in ("seminorm", "full"):
            raise SettingError(f"Adjoint: norm must be 'seminorm' or 'full'; got {norm!r}")
        self.solver, self.norm = solver, norm

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
        self.refuse(t.dim() > 1, "times of each sample's own, (B, T): it solves backwards for all samples together")
        stats = Stats()
        backward = _backward_full if self.norm == "full" else _backward_seminorm
        back = _by_rms(self.solver or solver)
        y = BackwardInTime.apply(solver, back, backward, None, field, stats, y0, t, *params)
        return Solution(t, y, stats)  # pyright: ignore[reportArgumentType]


def _by_rms(solver: Solver) -> Solver:
    """The solver for states in which no dimension is that of samples: whose error's norm is over everything."""
    if isinstance(solver, AdaptiveStepper) and solver.norm != "rms":
        solver = copy.copy(solver)
        solver.norm = "rms"
    return solver


class BackwardInTime(torch.autograd.Function):
    """A solve whose backward pass solves the adjoint equation, by the function `backward` that it is given."""

    @staticmethod
    def forward(
        ctx: Any,
        solver: Solver,
        backward_solver: Solver,
        backward: Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, list[Tensor | None]]],
        tape: Tape | None,
        field: Field,
        stats: Stats,
        y0: Tensor,
        t: Tensor,
        *params: Tensor,
    ) -> Tensor:
        with full_precision(y0):
            solution = solver.integrate(field, y0, t.detach(), Observer(tape=tape))
        if tape is not None and any(segment.dense is None for segment in tape.segments):
            raise GradientError(
                f"InterpolatedAdjoint needs dense output, which {type(solver).__name__} does not show. "
                "Use Adjoint or Checkpointed, or a Runge–Kutta solver of odeflow"
            )
        vars(stats).update(vars(solution.stats))
        ctx.solver, ctx.field, ctx.stats, ctx.params = backward_solver, field, stats, params
        ctx.run, ctx.tape = backward, tape
        ctx.save_for_backward(t.detach(), solution.y)
        return solution.y

    @staticmethod
    @first_order_only
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad_y,) = grad_outputs
        t, y = ctx.saved_tensors
        adjoint, grads = ctx.run(ctx, t, y, grad_y)
        grad_t = _time_gradients(ctx.field, t, y, grad_y, adjoint) if ctx.needs_input_grad[7] else None
        return None, None, None, None, None, None, adjoint + grad_y[0], grad_t, *grads


def linearised(ctx: Any, t: Tensor, y: Tensor, adjoint: Tensor) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """f, −λᵀ ∂f/∂y and −λᵀ ∂f/∂θ at (t, y)."""
    params: tuple[Tensor, ...] = ctx.params
    with torch.enable_grad(), full_precision(y):
        state = y.detach().requires_grad_()
        slope = ctx.field(t, state).to(state)
        if not slope.requires_grad:
            return slope, torch.zeros_like(slope), [None] * len(params)
        grads: tuple[Any, ...] = torch.autograd.grad(slope, (state, *params), -adjoint, allow_unused=True)
    change, *integrand = grads
    return slope.detach(), torch.zeros_like(slope) if change is None else change, integrand


def _backward_seminorm(ctx: Any, t: Tensor, y: Tensor, grad_y: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """(λ(t₀), ∂L/∂θ), with state and adjoint under error control."""
    quadrature = Quadrature(len(ctx.params))

    def augmented(time: Tensor, pair: Tensor) -> Tensor:
        slope, change, quadrature.integrand = linearised(ctx, time, pair[0], pair[1])
        return torch.stack((slope, change))

    def jump(number: int, pair: Tensor) -> Tensor:
        """Adds the loss's own part at the output time that was reached, and sets the state to the stored one."""
        row = len(t) - 1 - number
        return torch.stack((y[row], pair[1] + grad_y[row])) if row else pair

    pair = torch.stack((y[-1], grad_y[-1]))
    backward = ctx.solver.integrate(augmented, pair, t.flip(0), Observer(quadrature=quadrature, jump=jump))
    ctx.stats.nfe_backward += backward.stats.nfe_forward
    return backward.y[-1][1], quadrature.total


def _backward_full(ctx: Any, t: Tensor, y: Tensor, grad_y: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """(λ(t₀), ∂L/∂θ), with state, adjoint and the parameters' integral under error control."""
    params: tuple[Tensor, ...] = ctx.params
    used = [False] * len(params)
    packing = Packing((y[0].shape, y[0].shape, *(param.shape for param in params)))

    def augmented(time: Tensor, packed: Tensor) -> Tensor:
        state, adjoint, *_ = packing.unpack(packed)
        slope, change, integrand = linearised(ctx, time, state, adjoint)
        for number, value in enumerate(integrand):
            used[number] |= value is not None
        sides = (
            torch.zeros_like(param) if value is None else value for param, value in zip(params, integrand, strict=True)
        )
        return packing.pack((slope, change, *sides))

    def jump(number: int, packed: Tensor) -> Tensor:
        row = len(t) - 1 - number
        if not row:
            return packed
        _, adjoint, *sides = packing.unpack(packed)
        return packing.pack((y[row], adjoint + grad_y[row], *sides))

    start = packing.pack((y[-1], grad_y[-1], *(torch.zeros_like(param) for param in params)))
    backward = ctx.solver.integrate(augmented, start, t.flip(0), Observer(jump=jump))
    ctx.stats.nfe_backward += backward.stats.nfe_forward
    _, adjoint, *grads = packing.unpack(backward.y[-1])
    return adjoint, [grad if present else None for grad, present in zip(grads, used, strict=True)]


def _time_gradients(field: Field, t: Tensor, y: Tensor, grad_y: Tensor, adjoint: Tensor) -> Tensor:
    """(T,), ∂L/∂t by Algorithm 2; `adjoint` is λ just after the first time."""
    weights = [-adjoint, *grad_y[1:]]
    slopes = [field(time.to(row), row) for time, row in zip(t, y, strict=True)]
    return torch.stack([(weight * slope).sum() for weight, slope in zip(weights, slopes, strict=True)]).to(t)
