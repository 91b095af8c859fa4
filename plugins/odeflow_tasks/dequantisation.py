"""Dequantisation: discrete values made continuous, so that they have a density."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import odeflow as of


@dataclass(frozen=True)
class Dequantisation(of.OptionGroup):
    """Uniform noise for the discrete values 0, 1/k, …, 1 of data such as images: x ↦ (kx + u)/(k + 1).

    A map then takes the flow's space to [0, 1]: a `Logit`, beyond which no sample can lie, or an affine map from
    [−1, 1], so that matching has data of even scale. The negative log-likelihood of the noisy values is an upper bound
    of that of the discrete ones.

    Source: Theis, van den Oord & Bethge (2016), "A note on the evaluation of generative models", section 3.1.

    Attributes:
        levels: Number k + 1 of values, such as 256; by default the data are continuous and stay as they are.
        alpha: α of the `Logit`.
        space: The flow's space: "logit", or "linear" for [−1, 1].

    Raises:
        SettingError: An option is out of range.
    """

    levels: int | None = None
    alpha: float = 1e-6
    space: Literal["logit", "linear"] = "logit"

    def __post_init__(self) -> None:
        of.check_least(self, 2, levels=self.levels)
        of.Logit(self.alpha)  # checks it

    def transforms(self) -> list[of.Bijection]:
        """The map from the flow's space to that of the data, if the data have levels."""
        if self.levels is None:
            return []
        return [of.Logit(self.alpha) if self.space == "logit" else of.Affine(0.5, 0.5)]

    def check(self, x: Tensor) -> None:
        """Rejects data whose levels are not between 0 and 1.

        Raises:
            DataError: There are such values.
        """
        if self.levels is not None and not bool(((x >= 0) & (x <= 1)).all()):
            raise of.DataError(
                f"data of {self.levels} levels must lie between 0 and 1; got {float(x.min()):g} to {float(x.max()):g}. "
                "Divide bytes by 255, and set standardise to false"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """The data with noise in [0, 1), as wide as the distance of two levels; continuous data as they are."""
        return x if self.levels is None else ((self.levels - 1) * x + torch.rand_like(x)) / self.levels

    def bits_per_dim(self, nll: Tensor, dim: int) -> Tensor | None:
        """(…), the negative log-likelihood of the levels in bits per dimension; None for continuous data.

        Args:
            nll: (…), the negative log-density of the noisy values in nats.
            dim: Number of values of a sample.
        """
        return None if self.levels is None else (nll / dim + math.log(self.levels)) / math.log(2)
