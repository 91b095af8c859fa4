"""StandardNormal: the noise that a flow makes its samples of."""

from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.epochs import Epochs
from odeflow_data.table import Table


class StandardNormal(Table):
    """Vectors of independent standard normal numbers, for tasks whose data are what the flow makes of them.

    A batch is a tensor z of shape (B, dim). Each epoch draws new vectors; which, the seed settles, apart from the
    global generator. Validation and test are drawn once, so that models are compared on the same noise.

    Args:
        dim: Length of a vector.
        batch_size: Number of vectors in a batch, in training and evaluation; the last one may be smaller.
        samples: Number of vectors in an epoch.
        val_size: Number of vectors that validate.
        test_size: Number of vectors that test.
        seed: Of all vectors.

    Raises:
        SettingError: A number is not positive, or the seed negative.
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
        super().__init__()
        of.check_least(self, 1, dim=dim, batch_size=batch_size, samples=samples, val_size=val_size, test_size=test_size)
        of.check_least(self, 0, seed=seed)
        self.dim, self.batch_size, self.val_size, self.test_size, self.seed = dim, batch_size, val_size, test_size, seed
        self.train = Epochs(partial(self._draw, samples), samples, batch_size)

    def _draw(self, count: int, *part: int) -> Tensor:
        """Vectors (count, dim); `part` says of what: 0 and the epoch, 1 for validation, 2 for the test."""
        random = np.random.default_rng([self.seed, *part])
        return torch.from_numpy(random.standard_normal((count, self.dim), dtype=np.float32))

    def setup(self, stage: str) -> None:
        self.val, self.test = self._draw(self.val_size, 1), self._draw(self.test_size, 2)

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(self.train, batch_size=None)

    def state_dict(self) -> dict[str, int]:
        """The number of the epoch, so that a resumed run goes on with new noise."""
        return {"epoch": self.train.epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Makes the next epoch the one after the stored one."""
        self.train.epoch = state_dict["epoch"]
