"""StandardError: how far the mean of a metric over samples may be off."""

import torch
from torch import Tensor
from torchmetrics import Metric


class StandardError(Metric):
    """s/√n, the standard error of a mean over n independent samples with standard deviation s; nan of less than two."""

    count: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("count", "total", "squares"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Adds samples (B,)."""
        values = values.detach().double()
        self.count += values.numel()
        self.total += values.sum()
        self.squares += values.square().sum()

    def compute(self) -> Tensor:
        """()."""
        variance = (self.squares - self.total**2 / self.count) / (self.count - 1)
        return (variance.clamp(min=0) / self.count).sqrt()
