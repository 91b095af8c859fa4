"""GeometricBrownianMotion: growth with noise in proportion."""

import torch
from torch import Tensor

import odeflow as of
from odeflow_dynamics import Coefficient


class GeometricBrownianMotion(of.Stochastic):
    """dX = µX dt + σX dW, in the sense of Itô: X(t) = X(0) exp((µ − σ²/2) t + σ W(t)).

    Args:
        mu: Initial µ, the rate of growth.
        sigma: Initial σ, the volatility.
        trainable: Whether they are trainable.

    Raises:
        SettingError: σ is not positive.
    """

    width = 1
    states = ("value",)

    def __init__(self, mu: float = 0.1, sigma: float = 0.5, trainable: bool = True) -> None:
        super().__init__()
        self.mu = Coefficient(mu, trainable=trainable)
        self.sigma = Coefficient(sigma, low=0.0, trainable=trainable)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.mu() * y

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return self.sigma() * y

    def advanced(self, y: Tensor, h: float, normal: Tensor) -> Tensor:
        """The exact state after a time h, by a standard normal number for each entry."""
        mu, sigma = self.mu(), self.sigma()
        return y * torch.exp((mu - sigma**2 / 2) * h + sigma * h**0.5 * normal)
