"""GaussianRing: Gaussians on a circle, a source that is not one lump."""

import math

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

import odeflow as of
from odeflow_tasks.base import Base


class GaussianRing(Base):
    """The even mixture of Gaussians N(cₖ, σ²I) in the plane, with centres cₖ at even angles on a circle.

    The defaults are the eight Gaussians of Tong et al. (2024) and Cheng & Schwing (2025). There σ² is passed as the
    *square root* of 0.1, so that σ = 0.1^¼ = 0.562.

    Args:
        count: Number of Gaussians.
        radius: Radius of the circle.
        std: σ.

    Raises:
        SettingError: An option is not positive, or the data are not of the plane.
    """

    centers: Tensor

    def __init__(self, count: int = 8, radius: float = 5.0, std: float = 0.1**0.25) -> None:
        super().__init__()
        of.check_least(self, 1, count=count)
        of.check_range(self, "(0, inf)", radius=radius, std=std)
        angle = 2 * math.pi / count * torch.arange(count)
        self.register_buffer("centers", radius * torch.stack([angle.cos(), angle.sin()], dim=1), persistent=False)
        self.std, self.fitted = std, torch.ones_like(self.fitted)

    def build(self, dim: int) -> None:
        if dim != 2:
            raise of.SettingError(f"GaussianRing is a distribution of the plane; got data of length {dim}")

    def fit(self, z: Tensor) -> None:
        """Does nothing: there is nothing to fit."""

    def forward(self) -> Distribution:
        around = Independent(Normal(self.centers, torch.full_like(self.centers, self.std), validate_args=False), 1)
        even = Categorical(logits=torch.zeros_like(self.centers[:, 0]), validate_args=False)
        return MixtureSameFamily(even, around, validate_args=False)
