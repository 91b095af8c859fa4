"""Linear: linear interpolation."""

from collections.abc import Sequence

from torch import Tensor

from odeflow.paths.knots import Knots
from odeflow.paths.polynomial import PiecewisePolynomial


class Linear(PiecewisePolynomial):
    """Straight lines between observations. Every observation is a break.

    The value between two observations depends on these two only.

    Example:
        >>> import torch
        >>> path = Linear(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([[[0.0], [2.0], [0.0]]]))
        >>> path(torch.tensor(0.5)), path.derivative(torch.tensor(2.0))
        (tensor([[1.]]), tensor([[-1.]]))
    """

    smooth = False

    def pieces(self, knots: Knots) -> Sequence[Tensor]:
        return knots.x[:, :-1], knots.x.diff(dim=1) / knots.steps()
