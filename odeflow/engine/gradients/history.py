"""Tensors of a solve that were computed from others of it, which a backward pass that reruns the solve would follow."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.gradients.backward import final
from odeflow.engine.output.solution import Solution


def without_history(
    run: Callable[[Tensor, Tensor], Solution], t: Tensor, y0: Tensor, params: Sequence[Tensor]
) -> Solution:
    """The solution run(t, y0), whose own backward pass cannot go on into the history of the times.

    A backward pass that reruns a solve asks autograd for the gradients of times and parameters. If the times depend on
    the parameters, as the time of an event does, autograd would follow them there, and count that dependence twice.

    Args:
        run: (times, initial state) ↦ the solution with a graph to them and to the parameters.
        t: (T,) or (B, T), the times.
        y0: (*state), the initial state.
        params: The other tensors to differentiate with respect to.
    """
    found: list[Solution] = []
    y = _WithoutHistory.apply(run, found, t, y0, *params)
    return replace(found.pop(), y=y)


class _WithoutHistory(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        run: Callable[[Tensor, Tensor], Solution],
        found: list[Solution],
        t: Tensor,
        y0: Tensor,
        *params: Tensor,
    ) -> Tensor:
        with torch.enable_grad():
            leaves = t.detach().requires_grad_(), y0.detach().requires_grad_()
            solution = run(*leaves)
        found.append(replace(solution, y=solution.y.detach()))
        ctx.rows, ctx.inputs = solution.y, (*leaves, *params)
        ctx.save_for_backward(t, y0, *params)
        return solution.y.detach()

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            found = torch.autograd.grad(ctx.rows, ctx.inputs, grad_outputs[0], retain_graph=True, allow_unused=True)
        return None, None, *final(found, *ctx.saved_tensors, *grad_outputs)


def is_nested(params: Sequence[Tensor]) -> bool:
    """Whether one of several tensors was computed from another one."""
    inner = [each for each in params if each.grad_fn is not None]
    leaves, results = {id(each) for each in params if each.is_leaf}, {each.grad_fn for each in inner}
    seen: set[Any] = set()
    ahead = [node for each in results if each is not None for node, _ in each.next_functions]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if node in results or id(getattr(node, "variable", None)) in leaves:
            return True
        seen.add(node)
        ahead += [before for before, _ in node.next_functions]
    return False
