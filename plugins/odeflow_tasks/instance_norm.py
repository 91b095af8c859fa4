"""InstanceNorm: each series relative to its own level and scale."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import odeflow as of

LEAST_SCALE = 0.05
"""Added to the scale of a series, in the units of batches, so that a constant one does not divide by 0."""


@dataclass(frozen=True)
class InstanceNorm(of.OptionGroup):
    """Normalisation of each series and feature by its own seen values, undone in predictions. By default there is none.

    Series with a trend, or with an amplitude that changes, need it: their future lies outside of the values that
    trained. All seen values determine level and scale, also those after a prediction's time.

    Source: Kim et al. (2022), "Reversible Instance Normalization for Accurate Time-Series Forecasting against
    Distribution Shift", without its learned affine map; level "last": as in NLinear, Zeng et al. (2023).

    Attributes:
        level: What is subtracted: "last", the last seen value, or "mean", the mean of the seen values.
        rescale: Whether the rest is divided by its root mean square.
    """

    level: Literal["none", "last", "mean"] = "none"
    rescale: bool = False

    def __call__(self, batch: of.Series) -> tuple[of.Series, "Scale"]:
        """The normalised batch, and the scale that restores its predictions."""
        y, count = batch.y.where(batch.seen, 0.0), batch.seen.sum(1, keepdim=True).clamp(min=1)
        level = torch.zeros_like(y[:, :1])
        if self.level == "mean":
            level = y.sum(1, keepdim=True) / count
        elif self.level == "last":
            place = torch.arange(y.shape[1], device=y.device)[None, :, None]
            level = y.gather(1, place.where(batch.seen, 0).amax(1, keepdim=True))
        rest = (y - level).where(batch.seen, 0.0)
        scale = torch.ones_like(level)
        if self.rescale:
            scale = (rest.square().sum(1, keepdim=True) / count).sqrt() + LEAST_SCALE
        return batch._replace(y=rest / scale), Scale(level, scale)


@dataclass(frozen=True)
class Scale:
    """Level and scale of each series and feature, (B, 1, d) each."""

    level: Tensor
    scale: Tensor

    def restored(self, prediction: Tensor) -> Tensor:
        """(B, T, d), a prediction of the normalised series in the units of the batch."""
        return prediction * self.scale + self.level
