"""LotkaVolterra: the predator–prey equations."""

import torch
from torch import Tensor

import odeflow as of
from odeflow_dynamics.symbolic import components, positive


class LotkaVolterra(of.Dynamics):
    """dx/dt = αx − βxy, dy/dt = δxy − γy, with positive rates, parametrised by their logarithms.

    Source: Lotka (1925), "Elements of Physical Biology"; Volterra (1926), Nature 118, 558–560.

    Args:
        alpha: Initial α, the growth rate of prey.
        beta: Initial β, the predation rate.
        gamma: Initial γ, the death rate of predators.
        delta: Initial δ, the growth rate of predators per prey.
        trainable: Whether the rates are trainable.

    Raises:
        SettingError: A rate is not positive.
    """

    width = 2

    def __init__(
        self, alpha: float = 1.0, beta: float = 1.0, gamma: float = 1.0, delta: float = 1.0, trainable: bool = True
    ) -> None:
        super().__init__()
        name = "LotkaVolterra"
        self.log_alpha = positive(name, alpha, "alpha", trainable)
        self.log_beta = positive(name, beta, "beta", trainable)
        self.log_gamma = positive(name, gamma, "gamma", trainable)
        self.log_delta = positive(name, delta, "delta", trainable)

    @property
    def rates(self) -> Tensor:
        """(4,), α, β, γ and δ."""
        return torch.stack([self.log_alpha, self.log_beta, self.log_gamma, self.log_delta]).exp()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, 2) ↦ (…, 2), of prey and predators.

        Raises:
            StateError: The last dimension of the state is not 2.
        """
        prey, predators = components("LotkaVolterra", y, "prey predators")
        alpha, beta, gamma, delta = self.rates
        return torch.stack([prey * (alpha - beta * predators), predators * (delta * prey - gamma)], dim=-1)
