"""Whitening: the affine map to the Gaussian of the data, from which a flow starts."""

import torch
from torch import Tensor

from odeflow.density.bijections import FittedBijection
from odeflow.errors import DataError


class Whitening(FittedBijection):
    """x = L z + m, with the mean m of the data and the Cholesky factor L of their covariance.

    A flow before it starts from the Gaussian of maximum likelihood instead of the standard normal, and learns only in
    what the data differ from that. Before `fit` it is the identity.

    Args:
        dim: Number of features, along dimension 1 of (B, dim).
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("factor", torch.eye(dim))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Fits mean and covariance to data.

        Args:
            x: (N, dim).

        Raises:
            DataError: The data have another number of features, or their covariance is singular.
        """
        if x.dim() != 2 or x.shape[1] != len(self.mean):
            raise DataError(f"Whitening needs rows of {len(self.mean)} features; got shape {tuple(x.shape)}")
        rows = x.double()
        centred = rows - rows.mean(0)
        factor, failed = torch.linalg.cholesky_ex(centred.T @ centred / len(x))
        if bool(failed) or not bool((factor.diagonal() > 1e-4 * centred.square().mean(0).sqrt()).all()):
            raise DataError(
                f"the covariance of {len(x)} rows of {x.shape[1]} features is singular: a feature is a linear function "
                "of the others, or there are too few rows. Leave the feature out, or set whitening to false"
            )
        self.mean, self.factor = rows.mean(0).to(self.mean), factor.to(self.factor)
        self.fitted = torch.ones_like(self.fitted)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z @ self.factor.T + self.mean, self._log_det(z)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.linalg.solve_triangular(self.factor, (x - self.mean).T, upper=False).T
        return z, -self._log_det(x)

    def _log_det(self, x: Tensor) -> Tensor:
        return self.factor.diagonal().log().sum().expand(len(x))
