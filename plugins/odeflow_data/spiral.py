"""Spiral: one long trajectory of a cubic field, cut into short pieces, and others for validation and test."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.pieces import Pieces
from odeflow_data.rows import repeated

MATRIX = ((-0.1, 2.0), (-2.0, -0.1))
STARTS = {"train": (2.0, 0.0), "val": (-1.8, 0.0), "test": (0.0, 1.9)}
"""y(0) of each part; the others lie between the first turns of the one that trains."""


class Spiral(of.DataModule):
    """The spiral dy/dt = y³A, A = [[−0.1, 2], [−2, −0.1]], from y(0) = (2, 0) to t = 25.

    Training takes random pieces of `batch_time` observations. Validation and test forecast whole trajectories of the
    same field from other states, (−1.8, 0) and (0, 1.9), between the turns of the first one.

    Source: Chen et al. (2018), as released in torchdiffeq's `ode_demo`; it has the first trajectory alone.

    Args:
        observations: Number of equidistant observations on [0, t1].
        batch_time: Number of observations in a piece.
        batch_size: Number of pieces in a batch.
        steps: Number of batches in an epoch.
        t1: Last time.
        noise: Standard deviation of the noise that is added to the training pieces.
    """

    def __init__(
        self,
        observations: int = 1000,
        batch_time: int = 10,
        batch_size: int = 20,
        steps: int = 100,
        t1: float = 25.0,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        if not 2 <= batch_time <= observations:
            raise of.SettingError(f"batch_time must lie between 2 and observations = {observations}; got {batch_time}")
        of.check_least(self, 1, batch_size=batch_size, steps=steps)
        of.check_least(self, 0, noise=noise)
        of.check_range(self, "(0, inf)", t1=t1)
        self.dim = 2
        self.batch_time, self.batch_size, self.steps, self.noise = batch_time, batch_size, steps, noise
        self.t = torch.linspace(0, t1, observations)

    def setup(self, stage: str) -> None:
        from odeflow_solvers import Dopri5

        start = torch.tensor([*STARTS.values()], dtype=torch.float64)
        with torch.no_grad():
            solution = of.solve(_spiral, start, self.t.double(), solver=Dopri5(1e-10, 1e-12))
        self.y = dict(zip(STARTS, solution.y.float().unbind(1), strict=True))  # (observations, 2) each

    def train_dataloader(self) -> DataLoader[object]:
        t, starts = self.t[: self.batch_time], torch.arange(len(self.t) - self.batch_time + 1)
        pieces = Pieces(t, self.y["train"], starts, self.batch_size, self.steps, self.noise)
        return DataLoader(pieces, batch_size=None)

    def val_dataloader(self) -> DataLoader[object]:
        return self._whole("val")

    def test_dataloader(self) -> DataLoader[object]:
        return self._whole("test")

    def _whole(self, part: str) -> DataLoader[object]:
        return repeated(of.Series.observed(self.t, self.y[part][None], first_only=True))


def _spiral(t: Tensor, y: Tensor) -> Tensor:
    return y**3 @ y.new_tensor(MATRIX)
