"""Checkpointed: the exact gradient of the solve, at the memory of its states."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from odeflow.gradient.base import Gradient
from odeflow.gradient.surroundings import Autocast
from odeflow.gradient.times import move_rows, on_fixed_clock
from odeflow.solver import Segment, Solution, Solver, Stats
from odeflow.state import Field, accumulate


class Checkpointed(Gradient):
    """Discretise, then optimise, keeping only the state at each accepted step.

    The backward pass takes the steps in reverse, each run again with autograd from its stored state. The result is
    the gradient of what the forward pass computed, as by `Backprop`, while memory grows by one state a step rather
    than by the graph of its stages. A solver that does not show its steps is run again as a whole.

    Source: Zhuang et al. (2020), "Adaptive Checkpoint Adjoint Method", ICML.
    """

    needs_params = True

    def solve(self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...]) -> Solution:
        stats = Stats()
        if not t.requires_grad:
            y = _Replay.apply(solver, field, t, stats, y0, *params)
            return Solution(t, y, stats)  # pyright: ignore[reportArgumentType]
        y = _Replay.apply(solver, on_fixed_clock(field, t), t.detach(), stats, y0, t, *params)
        return Solution(t, move_rows(field, t, y), stats)  # pyright: ignore[reportArgumentType]


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solver: Solver, field: Field, t: Tensor, stats: Stats, y0: Tensor, *params: Tensor) -> Tensor:
        tape: list[Segment] = []
        ctx.autocast = Autocast(y0)
        with ctx.autocast.again():
            solution = solver.integrate(field, y0, t, tape=tape)
        vars(stats).update(vars(solution.stats))
        assert isinstance(solution.y, Tensor)
        ctx.field, ctx.stats, ctx.params = field, stats, params
        ctx.segments = [replace(segment, start=None) for segment in tape]
        ctx.save_for_backward(*(segment.start for segment in tape))
        return solution.y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad_y,) = grad_outputs
        params: tuple[Tensor, ...] = ctx.params
        evaluations = 0

        def counted(t: Tensor, y: Tensor) -> Tensor:
            nonlocal evaluations
            evaluations += 1
            return ctx.field(t, y)

        adjoint = torch.zeros_like(grad_y[0])
        grads: list[Tensor | None] = [None] * len(params)
        for segment, saved in zip(reversed(ctx.segments), reversed(ctx.saved_tensors), strict=True):
            if segment.end_row is not None:
                adjoint = adjoint + grad_y[segment.end_row]
            with torch.enable_grad(), ctx.autocast.again():
                start = saved.detach().requires_grad_()
                end, rows = segment.rerun(counted, start)
            results, weights = [end], [adjoint]
            if rows is not None:
                results.append(rows)
                weights.append(grad_y[segment.rows])
            adjoint, *steps = torch.autograd.grad(results, (start, *params), weights, allow_unused=True)
            accumulate(grads, steps)
        ctx.stats.nfe_backward += evaluations
        return None, None, None, None, adjoint + grad_y[0], *grads
