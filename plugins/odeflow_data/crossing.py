"""Crossing: the two points that a flow in one dimension cannot exchange."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import odeflow as of


class Crossing(of.DataModule):
    """The map g(−1) = 1, g(1) = −1, in one dimension: what neural ODEs cannot represent without augmentation.

    Trajectories in one dimension cannot cross, so that a flow has a = φ(−1) < φ(1) = b and the mean square error
    ½((a − 1)² + (b + 1)²) ≥ ¼(b − a + 2)² > 1, which it approaches by squeezing both points to 0.

    The two points alternate, so that every batch is balanced. Noise moves the inputs, not their targets; training,
    validation and test draw it independently and are alike in number. Without noise there are no other points than
    these two, and all parts repeat them.

    Source: Dupont, Doucet & Teh (2019), "Augmented Neural ODEs", section 3.1.

    Args:
        samples: Number of points in each part, even.
        batch_size: Number of points in a training batch, even.
        noise: Standard deviation of the noise that is added to the inputs.
        seed: Seed of the noise.

    Raises:
        SettingError: A number is odd or not positive, or the noise negative.
    """

    def __init__(self, samples: int = 512, batch_size: int = 32, noise: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        for name, value in {"samples": samples, "batch_size": batch_size}.items():
            if value < 2 or value % 2:
                raise of.SettingError(f"Crossing: {name} must be even, for two points in equal parts; got {value}")
        of.check_least(self, 0, noise=noise, seed=seed)
        self.dim = 1
        self.samples, self.batch_size, self.noise, self.seed = samples, batch_size, noise, seed

    def setup(self, stage: str) -> None:
        points = torch.tensor([[-1.0], [1.0]]).repeat(self.samples // 2, 1)
        noise = torch.randn(3, *points.shape, generator=torch.Generator().manual_seed(self.seed))
        self.train, self.val, self.test = (TensorDataset(points + self.noise * part, -points) for part in noise)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return of.evaluation_loader(self.val, self.samples)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return of.evaluation_loader(self.test, self.samples)

    def training_part(self) -> tuple[Tensor, ...]:
        return self.train.tensors
