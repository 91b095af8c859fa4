"""NoData: for tasks that optimise without data."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.rows import repeated


class NoData(of.DataModule):
    """Empty batches, for tasks such as `Shooting`, in which each batch is one optimisation step.

    Args:
        steps: Number of batches in an epoch.

    Raises:
        SettingError: `steps` is not positive.
    """

    def __init__(self, steps: int = 10) -> None:
        super().__init__()
        of.check_least(self, 1, steps=steps)
        self.steps = steps

    def train_dataloader(self) -> DataLoader[Tensor]:
        return repeated(torch.empty(0), self.steps)

    def val_dataloader(self) -> DataLoader[Tensor]:
        return repeated(torch.empty(0))

    def test_dataloader(self) -> DataLoader[Tensor]:
        return repeated(torch.empty(0))
