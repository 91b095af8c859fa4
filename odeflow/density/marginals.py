"""Marginals: makes each feature standard normal, so that a flow learns only their dependence."""

import torch
from torch import Tensor

from odeflow.density.bijections import FittedBijection
from odeflow.errors import DataError, SettingError


class Marginals(FittedBijection):
    """x_j = g_j(z_j) for each feature j, with g_j piecewise linear through the data's quantiles.

    After `fit` the knots are (Φ⁻¹((k + ½)/K), quantile (k + ½)/K of feature j), k = 0 … K − 1, and g_j is extrapolated
    linearly beyond them. It is invertible on all real numbers; its inverse makes each feature of the data nearly
    standard normal. The map, a histogram of K bins of equal mass, takes over the sharp edges and peaks of each feature,
    which would cost an ODE solver many steps. Before `fit` it is the identity.

    Source: the first half of an iteration of Chen & Gopinath (2000), "Gaussianization", NIPS 13.

    Args:
        dim: Number of features, along dimension 1 of (B, dim).
        knots: Number K of knots of each feature.

    Raises:
        SettingError: There are fewer than two knots.
    """

    at_base: Tensor
    at_data: Tensor

    def __init__(self, dim: int, knots: int = 1024) -> None:
        super().__init__()
        if knots < 2:
            raise SettingError(f"Marginals: knots must be at least 2; got {knots}")
        self.register_buffer("at_base", torch.special.ndtri(_levels(knots)).float().repeat(dim, 1))
        self.register_buffer("at_data", self.at_base.clone())

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Fits the knots to data.

        Args:
            x: (N, dim).

        Raises:
            DataError: There are fewer rows than knots, or a value is so frequent that its feature has no density.
        """
        dim, knots = self.at_data.shape
        if x.dim() != 2 or x.shape[1] != dim or len(x) < knots:
            raise DataError(f"Marginals need at least {knots} rows of {dim} features; got shape {tuple(x.shape)}")
        rows = (_levels(knots) * len(x)).long().to(x.device)
        quantiles = x.sort(dim=0).values[rows].t().to(self.at_data)
        flat = (quantiles.diff() <= 0).any(dim=1).nonzero().flatten().tolist()
        if flat:
            raise DataError(
                f"feature {flat[0]} repeats one value in at least one row of {knots}, so it has no density there; "
                "add noise as wide as its resolution (dequantisation), or take fewer knots"
            )
        self.at_data = quantiles.contiguous()
        self.fitted = torch.ones_like(self.fitted)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return _interpolated(z, self.at_base, self.at_data)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _interpolated(x, self.at_data, self.at_base)


def _levels(knots: int) -> Tensor:
    """(K,), the probability levels of the knots."""
    return (torch.arange(knots, dtype=torch.float64) + 0.5) / knots


def _interpolated(x: Tensor, knots: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """(B, d), piecewise linear interpolation of each feature, with linear extrapolation; and (B,), the log-determinant.

    Args:
        x: (B, d).
        knots: (d, K), the abscissae, increasing.
        values: (d, K), the ordinates, increasing.
    """
    columns = x.t().contiguous()
    left = (torch.searchsorted(knots, columns) - 1).clamp(0, knots.shape[1] - 2)
    slopes = (values.diff() / knots.diff()).gather(1, left)
    result = values.gather(1, left) + slopes * (columns - knots.gather(1, left))
    return result.t(), slopes.log().sum(0)
