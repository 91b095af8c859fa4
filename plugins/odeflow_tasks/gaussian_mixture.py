"""GaussianMixture: a base density that has the modes and tails of the data."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import odeflow as of
from odeflow_tasks.base import Base

MOST_ROWS = 2_000
"""Maximum number of rows that the mixtures are fitted to."""
LEAST_WEIGHT = 0.03
"""Minimum weight of a mixture in the average, as a share of the largest one; those below are left out."""


class GaussianMixture(Base):
    """p(z) = Σ w_k N(z; m_k, Σ_k), fitted to the data once and fixed; before that the standard normal.

    It is an average of several mixtures: one by expectation maximisation for each number of components and each ridge
    r, by which Σ_k is at least r D, with D the variances of the features or, in another mixture, their covariance. The
    weights of the average maximise the likelihood of rows on which the mixtures were not fitted, by cross-validation
    within the data. So the average may have narrow components where rows are dense beside broad ones for the tails.

    Source: Izmailov et al. (2020), "Semi-Supervised Learning with Normalizing Flows", for the base of a flow; Smyth &
    Wolpert (1999), "Linearly Combining Density Estimators via Stacking", for the weights.

    Args:
        components: Numbers of components of the mixtures. A number above half the rows of a fit is replaced by that.
        ridges: Ridges r of the mixtures.
        folds: Number of folds of the cross-validation.

    Raises:
        SettingError: An option is out of range.

    Example:
        >>> base = GaussianMixture(components=[1, 3])
        >>> base.build(2)
        >>> base.fit(torch.randn(200, 2))
        >>> base().sample((5,)).shape
        torch.Size([5, 2])
    """

    weights: Tensor
    means: Tensor
    factors: Tensor

    def __init__(
        self,
        components: Sequence[int] = (1, 2, 3, 4, 6, 8),
        ridges: Sequence[float] = (1e-5, 1e-2, 1e-1),
        folds: int = 5,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, components=components)
        of.check_least(self, 1e-8, ridges=ridges)
        of.check_least(self, 2, folds=folds)
        if not components or not ridges:
            raise of.SettingError("GaussianMixture needs at least one number of components and one ridge")
        self.components, self.ridges, self.folds = components, ridges, folds

    def build(self, dim: int) -> None:
        size = 2 * sum(self.components) * len(self.ridges)
        self.register_buffer("weights", torch.eye(size)[0])
        self.register_buffer("means", torch.zeros(size, dim))
        self.register_buffer("factors", torch.eye(dim).repeat(size, 1, 1))

    def forward(self) -> MixtureSameFamily:
        used = self.weights > 0
        return Gaussians(self.weights[used], self.means[used], self.factors[used]).distribution()

    @torch.no_grad()
    def fit(self, z: Tensor) -> None:
        """Fits the mixtures and the weights of their average.

        Args:
            z: (N, dim).

        Raises:
            DataError: There are fewer than three rows, or a feature is constant.
        """
        if len(z) < 3:
            raise of.DataError(f"GaussianMixture needs at least 3 rows; got {len(z)}")
        rows = z.double().cpu()[torch.randperm(len(z))[:MOST_ROWS]]
        constant = (rows == rows[0]).all(0)
        if bool(constant.any()):
            raise of.DataError(
                f"GaussianMixture: feature {int(constant.int().argmax())} is constant in {len(rows)} rows and has no "
                "density; leave it out"
            )
        seed, frames = int(torch.randint(2**31, ())), _frames(rows)
        held_out: list[Tensor] = []
        for fold in torch.arange(len(rows)).tensor_split(min(self.folds, len(rows))):
            rest = torch.ones(len(rows), dtype=torch.bool).index_fill(0, fold, False)
            fitted = self._candidates(rows[rest], frames, seed)
            held_out.append(torch.stack([each.distribution().log_prob(rows[fold]) for each in fitted], dim=1))
        average = Gaussians.average(self._candidates(rows, frames, seed), stacked(torch.cat(held_out)))
        count = len(average.weights)
        self.weights = torch.zeros_like(self.weights)
        self.weights[:count] = average.weights.to(self.weights)
        self.means[:count] = average.means.to(self.means)
        self.factors[:count] = average.factors.to(self.factors)
        self.fitted = torch.ones_like(self.fitted)

    def _candidates(self, rows: Tensor, frames: Sequence[Tensor], seed: int) -> list["Gaussians"]:
        """The mixtures of all numbers of components and ridges."""
        most = max(len(rows) // 2, 1)
        return [
            Gaussians.fitted(rows, min(count, most), ridge, frame, seed)
            for frame in frames
            for count in self.components
            for ridge in self.ridges
        ]


@dataclass(frozen=True)
class Gaussians:
    """The components of a mixture.

    Attributes:
        weights: (K,).
        means: (K, d).
        factors: (K, d, d), the Cholesky factors of the covariances.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor

    @classmethod
    def fitted(cls, rows: Tensor, count: int, ridge: float, frame: Tensor, seed: int) -> "Gaussians":
        """That of scikit-learn for rows (N, d) in the coordinates y of x = L y + mean, with the frame L (d, d)."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture as Mixture

        centre = rows.mean(0)
        y = torch.linalg.solve_triangular(frame, (rows - centre).T, upper=False).T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = Mixture(count, reg_covar=ridge, max_iter=200, random_state=seed).fit(y.numpy())
        weights, means, covariances = map(torch.from_numpy, (found.weights_, found.means_, found.covariances_))
        return cls(weights, means @ frame.T + centre, frame @ torch.linalg.cholesky(covariances))

    @classmethod
    def average(cls, mixtures: Sequence["Gaussians"], shares: Tensor) -> "Gaussians":
        """The mixture of mixtures with these shares (M,)."""
        weights = torch.cat([share * each.weights for share, each in zip(shares, mixtures, strict=True)])
        return cls(
            weights, torch.cat([each.means for each in mixtures]), torch.cat([each.factors for each in mixtures])
        )

    def distribution(self) -> MixtureSameFamily:
        """The density of the mixture."""
        parts = MultivariateNormal(self.means, scale_tril=self.factors, validate_args=False)
        return MixtureSameFamily(Categorical(self.weights, validate_args=False), parts, validate_args=False)


def stacked(log_p: Tensor) -> Tensor:
    """(M,), the weights w of M densities that maximise Σ_n log Σ_m w_m p_m(x_n), by expectation maximisation.

    Args:
        log_p: (N, M), the log-densities of rows on which the densities were not fitted.
    """
    weights = torch.full_like(log_p[0], 1 / log_p.shape[1])
    for _ in range(300):
        weights = (log_p + weights.log()).softmax(1).mean(0)
    weights = weights.where(weights >= LEAST_WEIGHT * weights.max(), 0.0)
    return weights / weights.sum()


def _frames(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The Cholesky factors, (d, d) each, of the variances and of the covariance of rows (N, d)."""
    covariance = rows.T.cov(correction=0).reshape(rows.shape[1], rows.shape[1])
    variances = covariance.diagonal().diag()
    return variances.sqrt(), torch.linalg.cholesky(covariance + 1e-8 * variances)  # also of fewer rows than features
