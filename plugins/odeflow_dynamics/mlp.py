"""MLP: a perceptron as vector field."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

import odeflow as of

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


class MLP(of.Dynamics):
    """dy/dt = W_L σ(… σ(W_1 [yᵖ, t] + b_1) …) + b_L, on vectors.

    Smooth activations suit adaptive solvers, whose error estimate assumes derivatives.

    Args:
        dim: Length d of the state.
        hidden: Widths of the hidden layers.
        activation: "tanh", "softplus", "relu", "elu", "silu" or "gelu".
        time: How the time enters: "concat" as one more input, "none" for an autonomous field.
        power: Exponent p of the input, elementwise; 3 suits cubic fields (as in torchdiffeq's `ode_demo`).
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        time: Literal["concat", "none"] = "concat",
        power: int = 1,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise of.SettingError(f"MLP knows no activation {activation!r}; choose from {', '.join(ACTIVATIONS)}")
        if time not in ("concat", "none"):
            raise of.SettingError(f"MLP: time must be 'concat' or 'none'; got {time!r}")
        self.width, self.time, self.power = dim, time, power
        sizes = [dim + (time == "concat"), *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], dim))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, d) ↦ (…, d).

        Raises:
            StateError: The state's last dimension is not d.
        """
        if y.shape[-1] != self.width:
            raise of.StateError(f"MLP(dim={self.width}) takes states (…, {self.width}); got {tuple(y.shape)}")
        x = y if self.power == 1 else y**self.power
        if self.time == "concat":
            x = torch.cat([x, t.expand(*x.shape[:-1], 1)], dim=-1)
        return self.layers(x)
