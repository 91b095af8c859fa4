"""PublishedMoons: the moons of the published comparisons of flow matching."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from odeflow_data.drawn import Drawn
from odeflow_data.rows import batches


class PublishedMoons(Drawn):
    """Two moons as torchdyn makes them, times 3 minus 1, without end.

    They differ from scikit-learn's, though they look alike: points lie at even angles, and the noise is *uniform* on
    [0, 0.2] and *the same* in both coordinates, so that each moon is a thin ribbon. There they are also not shuffled,
    so that four batches of 256 of 1,024 points are the halves of the moons in turn, unless a transport mixes them.

    A batch is x (B, 2), or a pair (x, c) with a condition. Each epoch draws new points; validation and test are drawn
    once.

    Source: Tong et al. (2024), "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal
    Transport"; Cheng & Schwing (2025), "The Curse of Conditions"; as released in https://github.com/hkchengrex/C2OT.

    Args:
        batch_size: Number of points in a batch, in training and evaluation.
        samples: Number of points in an epoch.
        val_size: Number of points for validation.
        test_size: Number of points for testing.
        seed: Seed of all points.
        condition: The condition of a point: "none", its moon, "class" (−1 or 1), or its first coordinate, "x".
        shuffle: Whether points are in random order; otherwise one moon follows the other, each by angle.

    Raises:
        SettingError: The condition is unknown, or a number is not positive.
    """

    def __init__(
        self,
        batch_size: int = 256,
        samples: int = 51_200,
        val_size: int = 1_000,
        test_size: int = 3_000,
        seed: int = 0,
        condition: Literal["none", "class", "x"] = "none",
        shuffle: bool = True,
    ) -> None:
        super().__init__(batch_size, samples, val_size, test_size, seed)
        self.dim, self.condition, self.shuffle = 2, condition, shuffle
        self.num_conditions = int(condition != "none")

    def draw(self, count: int, seed: Sequence[int]) -> Tensor:
        """Points (count, 2), and behind them their condition, if any."""
        random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
        outer = count // 2
        angle = np.concatenate([np.linspace(0, math.pi, outer), np.linspace(0, math.pi, count - outer)])
        inner = np.arange(count) >= outer
        x = np.where(inner, 1 - np.cos(angle), np.cos(angle))
        y = np.where(inner, 0.5 - np.sin(angle), np.sin(angle))
        points = 3 * (np.stack([x, y], axis=1) + 0.2 * random.rand(count, 1)) - 1
        columns = [points]
        if self.condition != "none":
            columns.append(np.where(inner, 1.0, -1.0)[:, None] if self.condition == "class" else points[:, :1])
        rows = np.concatenate(columns, axis=1)
        return torch.from_numpy((random.permutation(rows) if self.shuffle else rows).astype(np.float32))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=None, collate_fn=self._parted)  # pyright: ignore[reportArgumentType]

    def val_dataloader(self) -> DataLoader[Any]:
        return self._rows(self.val)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._rows(self.test)

    def training_part(self) -> Any:
        """The points of the first epoch."""
        return self._parted(self._epoch(0))

    def _rows(self, part: Tensor) -> DataLoader[Any]:
        parts = self._parted(part)
        return batches(*([parts] if isinstance(parts, Tensor) else parts), batch_size=self.batch_size)

    def _parted(self, rows: Tensor) -> Any:
        return (rows[:, :2], rows[:, 2:]) if self.num_conditions else rows
