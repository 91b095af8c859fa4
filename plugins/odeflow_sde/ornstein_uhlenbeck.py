"""OrnsteinUhlenbeck: a value that returns to its mean, with noise."""

import torch
from torch import Tensor

import odeflow as of
from odeflow_dynamics import Coefficient


class OrnsteinUhlenbeck(of.Stochastic):
    """dX = θ(µ − X) dt + σ dW.

    Source: Uhlenbeck & Ornstein (1930), Phys. Rev. 36, 823–841.

    Args:
        theta: Initial θ, the rate of return.
        mu: Initial µ, the mean.
        sigma: Initial σ, the strength of the noise.
        trainable: Whether they are trainable.

    Raises:
        SettingError: θ or σ is not positive.
    """

    width = 1
    states = ("value",)
    noise = "additive"

    def __init__(self, theta: float = 1.0, mu: float = 0.0, sigma: float = 0.5, trainable: bool = True) -> None:
        super().__init__()
        self.theta = Coefficient(theta, low=0.0, trainable=trainable)
        self.mu = Coefficient(mu, trainable=trainable)
        self.sigma = Coefficient(sigma, low=0.0, trainable=trainable)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.theta() * (self.mu() - y)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return self.sigma().expand_as(y)

    def advanced(self, y: Tensor, h: float, normal: Tensor) -> Tensor:
        """The exact state after a time h, by a standard normal number for each entry."""
        theta, mu, sigma = self.theta(), self.mu(), self.sigma()
        kept = torch.exp(-theta * h)
        return mu + (y - mu) * kept + sigma * ((1 - kept**2) / (2 * theta)).sqrt() * normal
