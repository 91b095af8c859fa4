"""Derivatives along a direction, in forward mode."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad


def along(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], directions: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The value of a function and its derivative along directions, with a graph if gradients are enabled.

    It is that of `torch.func.jvp`, which is called where dual numbers do not nest: inside another forward mode, or for
    a function that uses one. Elsewhere dual numbers take its place, since each of its calls leaves cycles of
    references to the garbage collector.

    Args:
        function: Takes the inputs.
        inputs: The point.
        directions: Of the inputs' shapes.

    Raises:
        RuntimeError: An operation of the function has no forward mode.
        NotImplementedError: So has a custom function.
    """
    try:
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(point, to) for point, to in zip(inputs, directions, strict=True)]
            value, tangent = forward_ad.unpack_dual(function(*duals))
    except (RuntimeError, NotImplementedError):
        found = torch.func.jvp(function, inputs, directions)
        return found[0], found[1]
    return value, torch.zeros_like(value) if tangent is None else tangent
