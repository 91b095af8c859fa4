"""Bridge: straight lines with the noise of a Brownian bridge."""

import torch
from torch import Tensor

import odeflow as of
from odeflow_matching.interpolant import Coefficients, Interpolant


class Bridge(Interpolant):
    """x_t = t x₁ + (1 − t) x₀ + σ √(t(1 − t)) z, the marginals of a Brownian bridge of diffusion σ.

    With the coupling `Sinkhorn(2σ²)` its flow has the marginals of the Schrödinger bridge. The rate of the noise is
    infinite at both ends, so that training draws times 0.001 away from them.

    Source: Tong et al. (2024), "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal
    Transport", section 3.2.4 (SB-CFM).

    Args:
        sigma: σ.

    Raises:
        SettingError: σ is not positive.
    """

    span = (1e-3, 1 - 1e-3)
    noisy = True

    def __init__(self, sigma: float = 1.0) -> None:
        of.check_range(self, "(0, inf)", sigma=sigma)
        self.sigma = sigma

    def coefficients(self, t: Tensor) -> Coefficients:
        one, root = torch.ones_like(t), (t * (1 - t)).sqrt()
        return Coefficients(t, 1 - t, self.sigma * root, one, -one, self.sigma * (1 - 2 * t) / (2 * root))
