"""first_order_only: for backward passes that cannot be differentiated again."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from odeflow.errors import GradientError

Backward = Callable[..., tuple[Tensor | None, ...]]


def first_order_only(backward: Backward) -> Backward:
    """Runs a backward pass without autograd; who differentiates its results again is told what to do instead.

    As `torch.autograd.function.once_differentiable`, but with a message of ours.
    """

    @wraps(backward)
    def wrapper(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            results = backward(ctx, *grad_outputs)
        if not torch.is_grad_enabled():
            return results
        present = [result for result in results if result is not None]
        refusing = iter(_Refusal.apply(torch.zeros((), requires_grad=True), *present))
        return tuple(None if result is None else next(refusing) for result in results)

    return wrapper


class _Refusal(torch.autograd.Function):
    """The identity, which refuses to be differentiated."""

    @staticmethod
    def forward(ctx: Any, wanting: Tensor, *results: Tensor) -> tuple[Tensor, ...]:
        return tuple(result.view_as(result) for result in results)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        raise GradientError(
            "this gradient was computed by a backward pass of its own and cannot be differentiated again. "
            "For second derivatives use gradient=Backprop(), which is what odeint of odeflow.compat.torchdiffeq does"
        )
