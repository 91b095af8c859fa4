"""attach: the derivative of the solution of an equation, by the implicit function theorem."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor  # pyright: ignore

from odeflow.errors import GradientError


def attach(value: Tensor, solution: Tensor, solve_transposed: Callable[[Tensor], Tensor]) -> Tensor:
    """The solution of k = F(k, …) with its derivative, dk = (I − ∂F/∂k)⁻¹ dF.

    Args:
        value: F(k, …) at constant k, with the graph of all other variables.
        solution: k, without a graph.
        solve_transposed: v ↦ (I − ∂F/∂k)⁻ᵀ v, called in the backward pass.

    Returns:
        k, with a graph that can be differentiated once.
    """
    return _Attach.apply(value, solution, solve_transposed)  # pyright: ignore[reportReturnType]


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, solution: Tensor, solve_transposed: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve_transposed = solve_transposed
        return solution.view_as(solution)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise GradientError(
                "implicit steps can be differentiated once, and create_graph=True asks for more. "
                "For second derivatives use an explicit solver such as Dopri5"
            )
        if is_legacy_batchedtensor(grad_outputs[0]):
            raise GradientError(
                "implicit steps take one gradient at a time: for several at once, as with vectorize=True or "
                "is_grads_batched=True, use an explicit solver such as Dopri5"
            )
        return ctx.solve_transposed(grad_outputs[0]), None, None
