"""MLP: a multilayer perceptron as vector field."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.clock import as_feature
from odeflow_dynamics.perceptron import activation_of, perceptron
from odeflow_dynamics.time_embedding import TimeEmbedding

TIME_FEATURES = {"concat": 0, "none": 0, "concat_squash": 1, "sinusoidal": 32}
"""The ways in which time enters, and the number of time features of every layer."""


class MLP(of.Dynamics):
    """dy/dt = W_L σ(… σ(W_1 [yᵖ, t] + b_1) …) + b_L, on vectors.

    Smooth activations suit adaptive solvers, whose error estimates assume smoothness.

    Source: Grathwohl et al. (2019), "FFJORD", as released, for time="concat_squash".

    Args:
        dim: Length d of the state.
        hidden: Widths of the hidden layers.
        activation: "tanh", "softplus", "relu", "elu", "silu" or "gelu".
        time: How the time enters: "concat" as an additional input; "none" for an autonomous field; "concat_squash" by a
            gate and a shift of every layer, (Wx + b) sigmoid(ut + v) + wt; "sinusoidal" by a shift of every layer,
            Wx + b + Uφ(t), where φ are sines and cosines with periods from 1/2 to 32.
        power: Exponent p of the input, elementwise; 3 suits cubic fields (as in torchdiffeq's `ode_demo`).
        zero_init: Whether the last layer starts at zero, so that the flow starts as the identity.

    Raises:
        SettingError: `activation` or `time` is unknown.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        time: Literal["concat", "none", "concat_squash", "sinusoidal"] = "concat",
        power: int = 1,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        sigma = activation_of(self, activation)
        of.check_least(self, 1, dim=dim, hidden=hidden, power=power)
        self.width, self.time, self.power = dim, time, power
        self.layers = perceptron(dim + (time == "concat"), hidden, dim, sigma)
        features, timed = TIME_FEATURES[time], [*hidden, dim] if TIME_FEATURES[time] else []
        self.embedding = TimeEmbedding(features) if time == "sinusoidal" else None
        self.gates = nn.ModuleList(nn.Linear(features, size) for size in timed if time == "concat_squash")
        self.shifts = nn.ModuleList(nn.Linear(features, size, bias=False) for size in timed)
        if zero_init:
            for parameter in (*self.layers[-1].parameters(), *self.shifts[-1:].parameters()):
                nn.init.zeros_(parameter)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, d) ↦ (…, d).

        Raises:
            StateError: The state's last dimension is not d.
        """
        if y.dim() == 0 or y.shape[-1] != self.width:
            raise of.StateError(f"MLP(dim={self.width}) takes states (…, {self.width}); got {tuple(y.shape)}")
        x = y if self.power == 1 else y**self.power
        if self.time == "concat":
            x = torch.cat([x, as_feature(t, x).expand(*x.shape[:-1], 1)], dim=-1)
        return self._timed(t, x) if self.shifts else self.layers(x)

    def _timed(self, t: Tensor, x: Tensor) -> Tensor:
        """Applies the layers, each gated and shifted by the time."""
        features = as_feature(t.to(x), x)
        if self.embedding is not None:
            features = self.embedding(features.squeeze(-1))
        for number, shift in enumerate(self.shifts):
            x = self.layers[2 * number](x)
            if self.gates:
                x = x * self.gates[number](features).sigmoid()
            x = x + shift(features)
            if number + 1 < len(self.shifts):
                x = self.layers[2 * number + 1](x)
        return x
