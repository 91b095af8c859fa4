"""Function: a path given by a formula or a module."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from odeflow.paths.path import Path


class Function(Path):
    """u(t) = function(t).

    Args:
        function: t of shape () ↦ (c,) or (B, c, …); if the solver steps per sample, also t of shape (b,) ↦ (b, c, …).
        derivative: du/dt, likewise; by default computed by automatic differentiation.
        breaks: The times at which the function or its derivative jumps.
        tensors: The tensors inside the function that may require gradients; by default its parameters, if it is a
            module.

    Example:
        >>> import torch
        >>> wave = Function(lambda t: torch.sin(2 * t)[..., None])
        >>> wave(torch.tensor(0.0)), wave.derivative(torch.tensor(0.0))
        (tensor([[0.]]), tensor([[2.]]))
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        derivative: Callable[[Tensor], Tensor] | None = None,
        breaks: Sequence[float] = (),
        tensors: Iterable[Tensor] | None = None,
    ) -> None:
        self.function, self.given_derivative = function, derivative
        self.breaks, self.continuous = tuple(sorted(breaks)), not breaks
        if tensors is None:
            tensors = function.parameters() if isinstance(function, nn.Module) else ()
        self.tensors = tuple(tensors)

    def __call__(self, t: Tensor) -> Tensor:
        return _batched(self.function(t))

    def derivative(self, t: Tensor) -> Tensor:
        if self.given_derivative is not None:
            return _batched(self.given_derivative(t))
        return torch.func.jvp(self, (t,), (torch.ones_like(t),))[1]


def _batched(value: Tensor) -> Tensor:
    """(c,) ↦ (1, c); others unchanged."""
    return value[None] if value.dim() == 1 else value
