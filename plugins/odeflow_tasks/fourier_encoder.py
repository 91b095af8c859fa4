"""FourierEncoder: encodes a series by the coefficients of a regression on cosines of time."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.perceptron import perceptron
from odeflow_tasks.encoder import Encoder


class FourierEncoder(Encoder):
    """A perceptron of the coefficients a of y(t) ≈ Σ aₖ cos(πk (t − t₀) / span), k < `terms`, of each feature.

    a minimises Σ (y − Σ aₖ cos …)² + ridge Σ (1 + k²) aₖ² over the seen values, so that the fit is smooth where these
    are few, and averages noise where they are many. The perceptron also reads how well each coefficient is determined.
    There is no loop over observations, so that it costs a fraction of a recurrent encoder.

    Args:
        width: Length of the vector.
        hidden: Widths of the hidden layers.
        span: Length of time on which the cosines are half waves of one another, about that of the series.
        terms: Number of cosines.
        ridge: Weight of the penalty.

    Raises:
        SettingError: An option is out of range.
    """

    def __init__(
        self, width: int = 50, hidden: Sequence[int] = (64,), span: float = 1.0, terms: int = 16, ridge: float = 0.01
    ) -> None:
        super().__init__()
        of.check_least(self, 1, width=width, hidden=hidden, terms=terms)
        of.check_range(self, "(0, inf)", span=span, ridge=ridge)
        self.width, self.hidden, self.span, self.ridge = width, tuple(hidden), span, ridge
        self.terms = terms

    def build(self, dim: int, covariates: int = 0) -> None:
        self.layers = perceptron(2 * self.terms * (dim + covariates), self.hidden, self.width, nn.SiLU)

    def forward(self, batch: of.Series, t0: float) -> Tensor:
        """(B, width), the encoded series."""
        return self.layers(self.coefficients(batch, t0))

    def coefficients(self, batch: of.Series, t0: float) -> Tensor:
        """(B, 2 · features · terms): the coefficients of values and covariates, and the share that is not shrunk."""
        y, seen = batch.y.where(batch.seen, 0.0), batch.seen.to(batch.y)
        if batch.covariates is not None:
            present = seen.amax(-1, keepdim=True)
            y = torch.cat([y, batch.covariates * present], dim=-1)
            seen = torch.cat([seen, present.expand_as(batch.covariates)], dim=-1)
        orders = torch.arange(self.terms, dtype=y.dtype, device=y.device)
        cosines = torch.cos(math.pi * orders * (batch.t[..., None] - t0) / self.span)  # (B, T, K)
        products = (cosines[:, None] * seen.mT[..., None]).mT @ cosines[:, None]  # (B, d, K, K)
        penalty = self.ridge * (1 + orders.square())
        right = (y.mT @ cosines)[..., None]
        found = torch.linalg.solve(products + penalty.diag_embed(), right)[..., 0]
        diagonal = products.diagonal(dim1=-2, dim2=-1)
        return torch.cat([found, diagonal / (diagonal + penalty)], dim=-1).flatten(1)
