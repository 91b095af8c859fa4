"""Hypernetwork: time-dependent parameters given by another network."""

from collections.abc import Sequence

import torch
from torch import Tensor

import odeflow as of
from odeflow_dynamics.perceptron import activation_of, perceptron
from odeflow_dynamics.shift import Shift

SMALL = 0.01  # factor of the last layer's initial weights


class Hypernetwork(of.Modifier):
    """dy/dt = f(t, y; θ(t)) with θ(t) = θ₀ + g(t), g a perceptron, for every trainable parameter.

    θ₀ are the parameters of the modified field. The last layer of g is initialised small, so that the initial field is
    close to the original one. It has (h + 1) n parameters for a field with n parameters and a last hidden layer of
    width h.

    Source: Ha, Dai & Le (2017), "HyperNetworks", ICLR; of time in a differential equation: Chen et al. (2018), "Neural
    Ordinary Differential Equations", section 4.

    Args:
        dynamics: The field f.
        hidden: Widths of the hidden layers of g.
        activation: Activation of g: "tanh", "softplus", "relu", "elu", "silu" or "gelu". θ is as smooth in t as this.

    Raises:
        SettingError: A width is not positive, the activation is unknown, or the field has no trainable parameters
            or `Normed` ones.
    """

    def __init__(self, dynamics: of.Dynamics, hidden: Sequence[int] = (32,), activation: str = "tanh") -> None:
        of.check_least(self, 1, hidden=hidden)
        sigma = activation_of(self, activation)
        super().__init__(dynamics)
        self.shift = Shift.over(dynamics, "Hypernetwork")
        net = perceptron(1, hidden, self.shift.size, sigma)
        weight, bias = net[-1].parameters()
        with torch.no_grad():
            weight.mul_(SMALL)
            bias.zero_()
        self.net = net.to(next(param for param in dynamics.parameters() if param.requires_grad))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """As of the modified field."""
        return self.shift.call(self.dynamics, self.net(t.unsqueeze(-1)), t, y)
