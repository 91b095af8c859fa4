"""Spheres: a ball inside a shell."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import odeflow as of

PARTS = ("train", "val", "test")


class Spheres(of.DataModule):
    """Points of the ball ‖x‖ ≤ r1, whose target is −1, and of the shell r2 ≤ ‖x‖ ≤ r3, whose target is 1.

    A flow in the points' own dimension keeps the ball inside the shell, so that no linear layer after it can tell
    them apart; with one dimension more it can lift the ball out. Points are uniform in the volume. Training,
    validation and test are drawn independently, and alike in number.

    Source: Dupont, Doucet & Teh (2019), "Augmented Neural ODEs", section 3.2.

    Args:
        dim: Dimension of the points.
        inner: Number of points in the ball.
        outer: Number of points in the shell.
        r1: Radius of the ball.
        r2: Inner radius of the shell.
        r3: Outer radius of the shell.
        batch_size: Number of points in a training batch.
        seed: Seed of all parts.

    Raises:
        SettingError: A number is not positive, or the radii do not grow.
    """

    def __init__(
        self,
        dim: int = 2,
        inner: int = 1000,
        outer: int = 2000,
        r1: float = 0.5,
        r2: float = 1.0,
        r3: float = 1.5,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, dim=dim, inner=inner, outer=outer, batch_size=batch_size)
        of.check_least(self, 0, seed=seed)
        if not 0 < r1 < r2 < r3:
            raise of.SettingError(f"Spheres: the radii must be 0 < r1 < r2 < r3; got {r1}, {r2} and {r3}")
        self.dim, self.inner, self.outer = dim, inner, outer
        self.r1, self.r2, self.r3 = r1, r2, r3
        self.batch_size, self.seed = batch_size, seed

    def setup(self, stage: str) -> None:
        self.train, self.val, self.test = (self._part(number) for number in range(len(PARTS)))

    def _part(self, number: int) -> TensorDataset:
        """Points (N, dim), ball and shell mixed, and targets (N, 1)."""
        generator = torch.Generator().manual_seed(len(PARTS) * self.seed + number)
        ball = uniform(self.inner, self.dim, 0, self.r1, generator)
        shell = uniform(self.outer, self.dim, self.r2, self.r3, generator)
        targets = torch.cat([-torch.ones(self.inner, 1), torch.ones(self.outer, 1)])
        order = torch.randperm(len(targets), generator=generator)
        return TensorDataset(torch.cat([ball, shell])[order], targets[order])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def training_part(self) -> tuple[Tensor, ...]:
        return self.train.tensors

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return of.evaluation_loader(self.val, 1000)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return of.evaluation_loader(self.test, 1000)


def uniform(count: int, dim: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Points of the shell low ≤ ‖x‖ ≤ high, uniform in its volume: ‖x‖ᵈ is uniform, and so is the direction.

    Args:
        count: Number of points.
        dim: Their dimension d.
        low: Smallest radius.
        high: Largest radius.
        generator: Draws them.

    Returns:
        (count, dim), in float32.
    """
    directions = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    share = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    radii = (low**dim + share * (high**dim - low**dim)) ** (1 / dim)
    return (radii * directions / directions.norm(dim=1, keepdim=True)).float()
