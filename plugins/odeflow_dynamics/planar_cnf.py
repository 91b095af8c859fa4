"""PlanarCNF: a sum of planar units with time-dependent parameters."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.perceptron import perceptron


class PlanarCNF(of.Dynamics):
    """dy/dt = Σₙ σₙ(t) uₙ(t) tanh(wₙ(t)ᵀy + bₙ(t)), on vectors: the wide field of continuous normalizing flows.

    A perceptron of t, a hypernetwork, outputs u, w, b and the gates σ = sigmoid(g) of all M units. The divergence has a
    closed form, Σₙ σₙ (uₙᵀwₙ) (1 − tanh²(wₙᵀy + bₙ)), which costs no more than the field itself. The initial u is
    scaled down with the number of units, so that the initial field does not grow with it.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", sections 4.1 (several hidden units) and 4.2
    (time-dependent dynamics).

    Args:
        dim: Length d of the state.
        units: Number M of planar units.
        hidden: Widths of the hidden layers of the perceptron.

    Raises:
        SettingError: The number of units or a width is not positive.
    """

    def __init__(self, dim: int, units: int = 64, hidden: Sequence[int] = (32, 32)) -> None:
        super().__init__()
        of.check_least(self, 1, dim=dim, units=units, hidden=hidden)
        self.width, self.units = dim, units
        self.net = perceptron(1, hidden, units * (2 * dim + 2), nn.Tanh)
        with torch.no_grad():
            for last in self.net[-1].parameters():
                last[: units * dim] /= units**0.5

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, d) ↦ (…, d).

        Raises:
            StateError: The state's last dimension is not d.
        """
        u, w, b = self._parameters_at(t, y)
        return (torch.tanh(_rows(t, y) @ w.mT + b) @ u).view_as(y)

    def divergence(self, t: Tensor, y: Tensor) -> Tensor:
        """(B,), in closed form."""
        u, w, b = self._parameters_at(t, y)
        derivatives = 1 - torch.tanh(_rows(t, y) @ w.mT + b).square()
        traces = derivatives @ (u * w).sum(-1, keepdim=True)
        return traces.view(y.shape[:-1]).flatten(1).sum(1) if y.dim() > 2 else traces.view(y.shape[:-1])

    def _parameters_at(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gated σu (M, d), w (M, d) and b (M,); (B, M, d), (B, M, d) and (B, 1, M) at t of shape (B,)."""
        if y.dim() == 0 or y.shape[-1] != self.width:
            raise of.StateError(f"PlanarCNF(dim={self.width}) takes states (…, {self.width}); got {tuple(y.shape)}")
        size = self.units * self.width
        values = self.net(t.to(y).unsqueeze(-1)).split([size, size, self.units, self.units], dim=-1)
        u, w, b, g = (value.unflatten(-1, (self.units, -1)) for value in values)
        return g.sigmoid() * u, w, b.mT if t.dim() else b.squeeze(-1)


def _rows(t: Tensor, y: Tensor) -> Tensor:
    """y, reshaped to (B, n, d) for per-sample times."""
    return y.reshape(len(y), -1, y.shape[-1]) if t.dim() else y
