"""LotkaVolterra: the predator–prey equations."""

import torch
from torch import Tensor

import odeflow as of
from odeflow_dynamics.coefficient import positive
from odeflow_dynamics.symbolic import components


class LotkaVolterra(of.Dynamics):
    """dx/dt = αx − βxy, dy/dt = δxy − γy, with positive rates.

    Source: Lotka (1925), "Elements of Physical Biology"; Volterra (1926), Nature 118, 558–560.

    Args:
        alpha: Initial α, the growth rate of prey.
        beta: Initial β, the predation rate.
        gamma: Initial γ, the death rate of predators.
        delta: Initial δ, the growth rate of predators per prey.
        trainable: Whether the rates are trainable.

    Attributes:
        alpha: α; likewise `beta`, `gamma` and `delta`.

    Raises:
        SettingError: A rate is not positive.
    """

    width = 2
    states = ("prey", "predators")

    def __init__(
        self, alpha: float = 1.0, beta: float = 1.0, gamma: float = 1.0, delta: float = 1.0, trainable: bool = True
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.gamma, self.delta = (
            positive("LotkaVolterra", name, value, trainable)
            for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma), ("delta", delta))
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, 2) ↦ (…, 2), of prey and predators.

        Raises:
            StateError: The last dimension of the state is not 2.
        """
        prey, predators = components("LotkaVolterra", y, "prey predators")
        growth, death = self.alpha() - self.beta() * predators, self.delta() * prey - self.gamma()
        return torch.stack([prey * growth, predators * death], dim=-1)
