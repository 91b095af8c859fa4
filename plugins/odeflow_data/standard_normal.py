"""StandardNormal: base noise of a flow."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import odeflow as of
from odeflow_data.drawn import Drawn


class StandardNormal(Drawn):
    """Standard normal vectors, the base noise for tasks such as `Variational`, which have no other data.

    A batch is a tensor z of shape (B, dim). Each epoch draws new vectors, determined by the seed and not by
    the global generator. Validation and test are drawn once, so that models are compared on the same noise.

    Args:
        dim: Length of a vector.
        batch_size: Number of vectors in a batch, in training and evaluation; the last one may be smaller.
        samples: Number of vectors in an epoch.
        val_size: Number of vectors for validation.
        test_size: Number of vectors for testing.
        seed: Seed of all vectors.

    Raises:
        SettingError: A number is not positive, or the seed is negative.
    """

    def __init__(
        self,
        dim: int = 2,
        batch_size: int = 256,
        samples: int = 51_200,
        val_size: int = 5_000,
        test_size: int = 50_000,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, samples, val_size, test_size, seed)
        of.check_least(self, 1, dim=dim)
        self.dim = dim

    def draw(self, count: int, seed: Sequence[int]) -> Tensor:
        """Vectors (count, dim)."""
        random = np.random.default_rng(seed)
        return torch.from_numpy(random.standard_normal((count, self.dim), dtype=np.float32))
