"""Root finding for many functions at once."""

from collections.abc import Callable

import torch
from torch import Tensor

PRECISION = 1e-14  # absolute, of a zero in [0, 1]


def roots(function: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Zeros in [0, 1] of functions with a sign change, by bisection or inverse quadratic interpolation.

    Source: Chandrupatla (1997), "A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear
    function without using derivatives", Adv. Eng. Softw. 28, 145–149.

    Args:
        function: Arguments ↦ values, one per function.
        like: A tensor with one entry per function.
    """
    a, b = torch.ones_like(like), torch.zeros_like(like)
    at_a, at_b = function(a), function(b)
    best = torch.where(at_a.abs() <= at_b.abs(), a, b)
    found = ~(at_a * at_b < 0)  # due to rounding, the zero is at an end
    part = torch.full_like(like, 0.5)
    while not bool(found.all()):
        x = a + part * (b - a)
        at_x = function(x)
        beside_a = (at_x > 0) == (at_a > 0)
        c, at_c = torch.where(beside_a, a, b), torch.where(beside_a, at_a, at_b)
        b, at_b = torch.where(beside_a, b, a), torch.where(beside_a, at_b, at_a)
        a, at_a = x, at_x
        best = torch.where(found, best, torch.where(at_a.abs() < at_b.abs(), a, b))
        smallest = PRECISION / (b - a).abs().clamp_min(PRECISION)
        found = found | (at_a == 0) | (smallest > 0.5)
        xi, phi = (a - b) / (c - b), (at_a - at_b) / (at_c - at_b)
        quadratic = at_a / (at_b - at_a) * at_c / (at_b - at_c)
        quadratic = quadratic + (c - a) / (b - a) * at_a / (at_c - at_a) * at_b / (at_c - at_b)
        part = torch.where((phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi), quadratic, 0.5)
        part = part.maximum(smallest).minimum(1 - smallest).where(~found, 0)
    return best
