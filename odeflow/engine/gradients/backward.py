"""with_backward: attaches a custom backward pass to a solution computed without autograd."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor  # pyright: ignore
from torch.autograd import forward_ad

from odeflow.engine.output.solution import Solution
from odeflow.errors import GradientError

Backward = Callable[..., tuple[Tensor, Sequence[Tensor | None]]]
"""(∂L/∂y, *saved) ↦ (∂L/∂y₀, ∂L/∂θ for each parameter, None where it is zero)."""


def with_backward(
    solution: Solution,
    backward: Backward,
    y0: Tensor,
    params: Sequence[Tensor],
    *saved: Tensor,
    again: Callable[..., Tensor] | None = None,
) -> Solution:
    """The solution with a graph to y₀ and the parameters, given by a custom backward pass.

    The backward pass runs without autograd. Second derivatives raise an error that says what to do instead, and so does
    a backward pass after y₀ or a parameter was changed in place, as by an optimizer.

    Args:
        solution: All rows, computed without autograd.
        backward: Called with ∂L/∂y, (R, *state), and the saved tensors.
        y0: (*state), the state at the first time.
        params: The other tensors to differentiate with respect to.
        saved: Tensors for the backward pass, which autograd frees once it has run.
        again: (y₀, *params) ↦ y by plain autograd, for second derivatives and several gradients at once. Without it
            they are an error.

    Raises:
        GradientError: The solution is to be differentiated in forward mode.
    """
    if forward_ad._current_level >= 0 and any(  # pyright: ignore[reportPrivateUsage]
        forward_ad.unpack_dual(each).tangent is not None for each in (y0, *params)
    ):
        raise GradientError(
            "this gradient has a backward pass of its own, and none in forward mode, as by dual tensors: use "
            "gradient=Backprop()"
        )
    return replace(solution, y=_WithBackward.apply(solution, backward, again, saved, y0, *params))


class _WithBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        solution: Solution,
        backward: Backward,
        again: Callable[..., Tensor] | None,
        saved: tuple[Tensor, ...],
        y0: Tensor,
        *params: Tensor,
    ) -> Tensor:
        ctx.run, ctx.again, ctx.count = backward, again, len(saved)
        ctx.save_for_backward(*saved, y0, *params)
        return solution.y.detach()  # no graph on `solution` itself, which `backward` may hold

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        saved, inputs = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        batched = is_legacy_batchedtensor(grad_outputs[0])
        if ctx.again is not None and (batched or torch.is_grad_enabled()):
            needed = [each for each in inputs if each.requires_grad]
            options = {"create_graph": torch.is_grad_enabled(), "allow_unused": True}
            with torch.enable_grad():
                y = ctx.again(*inputs)
            found = iter(torch.autograd.grad(y, needed, grad_outputs, **options))
            return *(None,) * 4, *(next(found) if each.requires_grad else None for each in inputs)
        if batched:
            raise GradientError(
                "this gradient was computed by a backward pass of its own, which takes one gradient at a time. For "
                "several at once, as with vectorize=True or is_grads_batched=True, use gradient=Backprop()"
            )
        with torch.no_grad():
            adjoint, grads = ctx.run(*grad_outputs, *saved)
        return *(None,) * 4, *final((adjoint, *grads), *inputs, *grad_outputs)


def final(grads: Sequence[Tensor | None], *origins: Tensor) -> Sequence[Tensor | None]:
    """The gradients of a backward pass without a graph, which cannot be differentiated again.

    Args:
        grads: The gradients.
        origins: What they depend on: asked for a derivative by any of these, autograd is refused.
    """
    if not torch.is_grad_enabled():
        return grads
    present = [grad for grad in grads if grad is not None]
    refusing = iter(_Refusal.apply(len(present), *present, *origins))
    return [None if grad is None else next(refusing) for grad in grads]


class _Refusal(torch.autograd.Function):
    """The identity on results, whose differentiation by what they depend on raises an error, unless it is by none."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(result.view_as(result) for result in tensors[:count])

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        wanted = torch.is_grad_enabled() or any(map(is_legacy_batchedtensor, grad_outputs))
        if not wanted and not any(bool(grad.any()) for grad in grad_outputs):
            return (None,) * len(ctx.needs_input_grad)
        raise GradientError(
            "this gradient was computed by a backward pass of its own and cannot be differentiated again. "
            "For second derivatives use gradient=Backprop(), which is what odeint of odeflow.compat.torchdiffeq does"
        )
