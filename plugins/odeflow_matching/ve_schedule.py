"""VESchedule: the variance-exploding diffusion, from noise to data."""

import math

import torch
from torch import Tensor

import odeflow as of
from odeflow_matching.interpolant import Coefficients, Interpolant


class VESchedule(Interpolant):
    """x_t = x₁ + (σ₀/σ₁)ᵗ x₀: the noise shrinks geometrically from σ₁ to σ₀ while the data stay in place.

    The source is N(0, σ₁²), which x₁ + x₀ at t = 0 is only for data much narrower than σ₁.

    Source: Song et al. (2021), "Score-Based Generative Modeling through Stochastic Differential Equations", eq. 31.

    Args:
        sigma_min: σ₀, the standard deviation of the noise that is left in the data.
        sigma_max: σ₁, the standard deviation of the source; several times that of the data.

    Raises:
        SettingError: The numbers are not 0 < σ₀ < σ₁.

    Attributes:
        spread: σ₁.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 20.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise of.SettingError(f"VESchedule: it needs 0 < sigma_min < sigma_max; got {sigma_min} and {sigma_max}")
        self.rate, self.spread = math.log(sigma_min / sigma_max), sigma_max

    def coefficients(self, t: Tensor) -> Coefficients:
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        b = (self.rate * t).exp()
        return Coefficients(one, b, zero, zero, self.rate * b, zero)
