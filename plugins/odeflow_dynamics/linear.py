"""Linear: a linear vector field."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.clock import as_feature
from odeflow_dynamics.symbolic import square


class Linear(of.Dynamics):
    """dy/dt = A y + b, on vectors. The solution is y(t) = exp(At) y(0) if b = 0.

    For linear latent dynamics and for tests. `layer.weight` is A, `layer.bias` is b.

    Args:
        dim: Length d of the state.
        bias: Whether b is included.
        time: How the time enters: "none" for an autonomous system, "concat" for dy/dt = A y + c t + b, where
            `layer.weight` is [A, c].
        matrix: The rows of the initial A; by default random, as b and c are.
        trainable: Whether A, b and c are trainable.

    Raises:
        SettingError: `time` is unknown, or the matrix is not d × d.
    """

    def __init__(
        self,
        dim: int,
        bias: bool = True,
        time: Literal["none", "concat"] = "none",
        matrix: Sequence[Sequence[float]] | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, dim=dim)
        self.width, self.time = dim, time
        self.layer = nn.Linear(dim + (time == "concat"), dim, bias)
        if matrix is not None:
            with torch.no_grad():
                self.layer.weight[:, :dim] = square("Linear", matrix, dim)
        self.layer.requires_grad_(trainable)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, d) ↦ (…, d).

        Raises:
            StateError: The state's last dimension is not d.
        """
        if y.dim() == 0 or y.shape[-1] != self.width:
            raise of.StateError(f"Linear(dim={self.width}) takes states (…, {self.width}); got {tuple(y.shape)}")
        if self.time == "none":
            return self.layer(y)
        return self.layer(torch.cat([y, as_feature(t, y).expand(*y.shape[:-1], 1)], dim=-1))
