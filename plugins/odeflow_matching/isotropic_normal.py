"""IsotropicNormal: a normal source of another standard deviation than 1."""

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

import odeflow as of
from odeflow_tasks.base import Base


class IsotropicNormal(Base):
    """N(0, σ²I), such as the noise in which a variance-exploding diffusion ends.

    Args:
        std: σ.

    Raises:
        SettingError: σ is not positive.
    """

    mean: Tensor

    def __init__(self, std: float) -> None:
        super().__init__()
        of.check_range(self, "(0, inf)", std=std)
        self.std, self.fitted = std, torch.ones_like(self.fitted)

    def build(self, dim: int) -> None:
        self.register_buffer("mean", torch.zeros(dim), persistent=False)

    def fit(self, z: Tensor) -> None:
        """Does nothing: there is nothing to fit."""

    def forward(self) -> Distribution:
        return Independent(Normal(self.mean, torch.full_like(self.mean, self.std), validate_args=False), 1)
