"""ToyDensity: two-dimensional densities without end, whose exact values and entropies are known."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import odeflow as of
from odeflow_data.drawn import Drawn
from odeflow_data.names import nearest
from odeflow_data.planar_density import DENSITIES


class ToyDensity(Drawn):
    """Points of the plane drawn from a known density: a test of density estimation against the truth.

    A batch is a tensor x of shape (B, 2). Each epoch draws new points, determined by the seed and not by the global
    generator. Validation and test are drawn once.

    The densities are those of FFJORD's toy data, about [−4, 4] wide, under longer names for four of them:
    "two_moons", "two_circles" and "swiss_roll" by scikit-learn, "8gaussians", "pinwheel", "checkerboard",
    "two_spirals" and "rings" by formula. Moons and circles of scikit-learn lie at even angles before noise is added,
    not at random ones, and as many on one as on the other: the density of a point is the same as their number grows,
    and a whole epoch is drawn at once to make it large.

    Source: Grathwohl et al. (2019), "FFJORD", and `lib/toy_data.py` of https://github.com/rtqichen/ffjord. Pinwheel:
        Johnson et al. (2016), "Composing graphical models with neural networks".

    Args:
        name: Name of the density.
        batch_size: Number of points in a batch, in training and evaluation; the last one may be smaller.
        samples: Number of points in an epoch.
        val_size: Number of points for validation.
        test_size: Number of points for testing.
        seed: Seed of all points.

    Raises:
        SettingError: There is no such density, or a number is not positive.
    """

    def __init__(
        self,
        name: str = "two_moons",
        batch_size: int = 512,
        samples: int = 51_200,
        val_size: int = 2_000,
        test_size: int = 10_000,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, samples, val_size, test_size, seed)
        if name not in DENSITIES:
            raise of.SettingError(
                f"ToyDensity: no density {name!r}.{nearest(name, [*DENSITIES])} There are: {', '.join(DENSITIES)}"
            )
        self.dim, self.density = 2, DENSITIES[name]

    def draw(self, count: int, seed: Sequence[int]) -> Tensor:
        """Points (count, 2)."""
        random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
        points = random.permutation(self.density.draw(count, random))
        return torch.from_numpy(points.astype(np.float32))

    def training_part(self) -> Tensor:
        """The points of the first epoch."""
        return self._epoch(0)

    def log_density(self, x: Tensor) -> Tensor:
        """The logarithm of p(x) in nats, computed in float64: by formula, or by quadrature exact to 1e-9.

        Args:
            x: (B, 2).

        Returns:
            (B,), in the dtype of x; −∞ outside the squares of "checkerboard".

        Raises:
            DataError: x is not a batch of points of the plane.
        """
        if x.ndim != 2 or x.shape[1] != 2:
            raise of.DataError(f"log_density takes points of shape (B, 2); got {tuple(x.shape)}")
        return self.density.log_density(x.double()).to(x.dtype)

    def entropy(self) -> float:
        """−E[log p(x)] in nats, the smallest mean negative log-likelihood that a model can have."""
        return self.density.entropy()
