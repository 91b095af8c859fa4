"""Rectilinear: the previous value held."""

from collections.abc import Sequence

from torch import Tensor

from odeflow.paths.knots import Knots
from odeflow.paths.polynomial import PiecewisePolynomial


class Rectilinear(PiecewisePolynomial):
    """Each observation is held until the next one ("zero-order hold"): u(t) = xᵢ for tᵢ ≤ t < tᵢ₊₁.

    The path jumps at every observation and never depends on a later one, except that a channel has the value of its
    first observation before it. For inputs that are switched, such as valves or doses. With time as a channel this is
    the rectilinear path of the source, which passes through the jumps in between.

    Source: Morrill, Kidger, Yang & Lyons (2021), "Neural Controlled Differential Equations for Online Prediction
    Tasks", section 3.

    Args:
        t: As in `Linear`.
        x: As in `Linear`.
        mask: As in `Linear`.

    Example:
        >>> import torch
        >>> path = Rectilinear(torch.tensor([0.0, 1.0]), torch.tensor([[[5.0], [7.0]]]))
        >>> path(torch.tensor(0.9)), path(torch.tensor(1.0))
        (tensor([[5.]]), tensor([[7.]]))
    """

    smooth = False
    continuous = False

    def __init__(self, t: Tensor, x: Tensor, mask: Tensor | None = None) -> None:
        super().__init__(t, x, mask)

    def pieces(self, knots: Knots) -> Sequence[Tensor]:
        return (knots.x[:, :-1],)
