"""Straight: the interpolant of rectified flows."""

import torch
from torch import Tensor

import odeflow as of
from odeflow_matching.interpolant import Coefficients, Interpolant


class Straight(Interpolant):
    """x_t = t x₁ + (1 − t) x₀ + σ z: straight lines, passed at constant speed.

    With a coupling of optimal transport its flow tends to the optimal one, whose trajectories are straight, too.

    Source: Liu, Gong & Liu (2023), "Flow Straight and Fast"; Tong et al. (2024), "Improving and Generalizing
    Flow-Based Generative Models with Minibatch Optimal Transport", for σ.

    Args:
        sigma: σ, which blurs source and data by this standard deviation.

    Raises:
        SettingError: σ is negative.
    """

    def __init__(self, sigma: float = 0.0) -> None:
        of.check_least(self, 0, sigma=sigma)
        self.sigma, self.noisy = sigma, sigma > 0

    def coefficients(self, t: Tensor) -> Coefficients:
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        return Coefficients(t, 1 - t, self.sigma * one, one, -one, zero)
