"""Decay: the law of radioactive decay, whose solution is known."""

import torch
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.rows import repeated


class Decay(of.DataModule):
    """N(t) = N₀ exp(−λt), the solution of dN/dt = −λN, at equidistant times: a benchmark for solvers.

    Test and prediction start from N₀, training from 2 N₀ and validation from N₀ / 2. In validation, test and prediction
    only the start is seen.

    Args:
        rate: λ, in 1/time.
        start: N₀.
        t1: Last time.
        observations: Number of times on [0, t1].
        steps: Number of batches in an epoch.

    Raises:
        SettingError: The last time or a number is out of range.
    """

    def __init__(
        self, rate: float = 1.0, start: float = 1.0, t1: float = 5.0, observations: int = 51, steps: int = 10
    ) -> None:
        super().__init__()
        of.check_range(self, "(0, inf)", t1=t1)
        of.check_least(self, 2, observations=observations)
        of.check_least(self, 1, steps=steps)
        self.dim = 1
        self.rate, self.start, self.t1, self.observations, self.steps = rate, start, t1, observations, steps

    def train_dataloader(self) -> DataLoader[object]:
        return self._loader(2 * self.start, self.steps)

    def val_dataloader(self) -> DataLoader[object]:
        return self._loader(self.start / 2, first_only=True)

    def test_dataloader(self) -> DataLoader[object]:
        return self._loader(self.start, first_only=True)

    def _loader(self, start: float, count: int = 1, first_only: bool = False) -> DataLoader[object]:
        t = torch.linspace(0, self.t1, self.observations, dtype=torch.float64)
        y = start * torch.exp(-self.rate * t)
        return repeated(of.Series.observed(t.float(), y.float()[None, :, None], first_only), count)
