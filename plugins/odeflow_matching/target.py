"""Target: straight lines that end around the data instead of in them."""

import torch
from torch import Tensor

import odeflow as of
from odeflow_matching.interpolant import Coefficients, Interpolant


class Target(Interpolant):
    """x_t = t x₁ + (1 − (1 − σ) t) x₀: given x₁, a normal source shrinks to N(x₁, σ²).

    Source: Lipman et al. (2023), "Flow Matching for Generative Modeling", eqs. 20–23.

    Args:
        sigma_min: σ, the standard deviation around the data at t = 1.

    Raises:
        SettingError: σ is not in [0, 1).
    """

    def __init__(self, sigma_min: float = 1e-3) -> None:
        of.check_range(self, "[0, 1)", sigma_min=sigma_min)
        self.sigma_min = sigma_min

    def coefficients(self, t: Tensor) -> Coefficients:
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        rate = 1 - self.sigma_min
        return Coefficients(t, 1 - rate * t, zero, one, -rate * one, zero)
