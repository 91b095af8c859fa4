"""NoData: for tasks that optimise without data."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.rows import repeated


class NoData(of.DataModule):
    """Batches of nothing, as many as an epoch is to have steps, for tasks such as `Shooting`.

    Each is an empty tensor; validation, test and prediction have one.

    Args:
        steps: Number of batches in an epoch.

    Raises:
        SettingError: It is not positive.
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
