"""Hermite: cubic interpolation with backward differences."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odeflow.paths.knots import Knots
from odeflow.paths.polynomial import PiecewisePolynomial, cubic


class Hermite(PiecewisePolynomial):
    """Cubics whose derivative at each observation is the slope of the line from the previous one.

    Smooth, so that adaptive solvers pass over the observations without a stop. The value between two observations
    depends on these and the one before. The first piece is a line.

    Source: Morrill, Kidger, Yang & Lyons (2021), "Neural Controlled Differential Equations for Online Prediction
    Tasks", "cubic Hermite splines with backward differences".

    Example:
        >>> import torch
        >>> path = Hermite(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([[[0.0], [2.0], [2.0]]]))
        >>> path.derivative(torch.tensor(1.0)), path.derivative(torch.tensor(2.0))
        (tensor([[2.]]), tensor([[0.]]))
    """

    smooth = True

    def pieces(self, knots: Knots) -> Sequence[Tensor]:
        slopes = knots.x.diff(dim=1) / knots.steps()
        return cubic(knots, torch.cat((slopes[:, :1], slopes), dim=1)) if slopes.shape[1] else (slopes,) * 4
