"""NaturalCubic: the natural cubic spline."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odeflow.paths.knots import Knots
from odeflow.paths.polynomial import PiecewisePolynomial, cubic


class NaturalCubic(PiecewisePolynomial):
    """The cubic spline with two continuous derivatives, the second of which is 0 at both ends.

    The smoothest path, but each value depends on all observations, later ones included.

    Source: de Boor (1978), "A Practical Guide to Splines", chapter IV.

    Example:
        >>> import torch
        >>> t = torch.linspace(0, 6, 25)
        >>> path = NaturalCubic(t, torch.sin(t).view(1, -1, 1))
        >>> bool((path(torch.tensor(3.1)) - torch.sin(torch.tensor(3.1))).abs() < 1e-4)
        True
    """

    smooth = True

    def pieces(self, knots: Knots) -> Sequence[Tensor]:
        return cubic(knots, _slopes(knots)) if knots.x.shape[1] > 1 else (knots.x[:, :0],) * 4


def _slopes(knots: Knots) -> Tensor:
    """(B, T, c, …), the derivatives at the observations, of which the second derivative is continuous."""
    h, x = knots.steps(), knots.x
    chord, last, beyond = x.diff(dim=1) / h, knots.is_last(), knots.is_beyond()
    side, end = torch.zeros_like(h[:, :1]), torch.zeros_like(chord[:, :1])
    before, after = torch.cat((side, h), 1), torch.cat((h, side), 1)  # of each observation
    left, right = torch.cat((end, chord), 1), torch.cat((chord, end), 1)
    first = torch.zeros_like(last).index_fill(1, torch.tensor(0, device=x.device), value=True)
    lower = torch.where(last, 1, after).where(~beyond, 0)
    upper = torch.where(first, 1, before).where(~last & ~beyond, 0)
    diagonal = torch.where(beyond, 1, torch.where(first | last, 2, 2 * (before + after)))
    right_side = 3 * torch.where(first, right, torch.where(last, left, after * left + before * right))
    return _tridiagonal(lower, diagonal, upper, torch.where(beyond, 0, right_side))


def _tridiagonal(lower: Tensor, diagonal: Tensor, upper: Tensor, value: Tensor) -> Tensor:
    """The solution of tridiagonal systems along dimension 1 by Thomas' algorithm; they are diagonally dominant."""
    ratios: list[Tensor] = []
    values: list[Tensor] = []
    for a, b, c, v in zip(lower.unbind(1), diagonal.unbind(1), upper.unbind(1), value.unbind(1), strict=True):
        pivot = b - a * ratios[-1] if ratios else b
        values.append((v - a * values[-1] if values else v) / pivot)
        ratios.append(c / pivot)
    solution = [values[-1]]
    for ratio, v in zip(ratios[-2::-1], values[-2::-1], strict=True):
        solution.append(v - ratio * solution[-1])
    return torch.stack(solution[::-1], dim=1)
