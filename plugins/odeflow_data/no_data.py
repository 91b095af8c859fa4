"""NoData: for tasks that optimise without data."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import odeflow as of


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
        if steps < 1:
            raise of.SettingError(f"NoData: steps must be positive; got {steps}")
        self.steps = steps

    def train_dataloader(self) -> DataLoader[Tensor]:
        return _empty(self.steps)

    def val_dataloader(self) -> DataLoader[Tensor]:
        return _empty(1)

    def test_dataloader(self) -> DataLoader[Tensor]:
        return _empty(1)

    def predict_dataloader(self) -> DataLoader[Tensor]:
        return _empty(1)


def _empty(count: int) -> DataLoader[Tensor]:
    return DataLoader([torch.empty(0)] * count, batch_size=None)  # pyright: ignore[reportArgumentType]
