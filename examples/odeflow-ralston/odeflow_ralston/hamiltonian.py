"""Hamiltonian: the vector field of a learned energy."""

import torch
from torch import Tensor, nn

import odeflow as of


class Hamiltonian(of.Dynamics):
    """dq/dt = ∂H/∂p, dp/dt = −∂H/∂q on states y = (q, p), the energy H being a perceptron of y.

    The flow conserves H, whatever has been learned. With `dissipative`, a second perceptron D changes it, in the
    direction of its gradient: dy/dt = (∂H/∂p, −∂H/∂q) + ∂D/∂y.

    Source: Greydanus et al. (2019), "Hamiltonian Neural Networks"; the dissipative part by Sosanya & Greydanus
    (2022), "Dissipative Hamiltonian Neural Networks".

    Args:
        dim: Length d of the state, even: the first half is q, the second p.
        hidden: Width of the two hidden layers.
        dissipative: Whether energy may be lost or gained.

    Raises:
        SettingError: The length is odd.
    """

    def __init__(self, dim: int, hidden: int = 64, dissipative: bool = False) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise of.SettingError(f"Hamiltonian: dim must be even, half q and half p; got {dim}")
        self.width = dim
        self.energy = _potential(dim, hidden)
        self.dissipation = _potential(dim, hidden) if dissipative else None

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, d) ↦ (…, d).

        Raises:
            StateError: The state's last dimension is not d.
        """
        if y.shape[-1] != self.width:
            raise of.StateError(f"Hamiltonian(dim={self.width}) takes states (…, {self.width}); got {tuple(y.shape)}")
        by_q, by_p = _slope(self.energy, y).chunk(2, dim=-1)
        slope = torch.cat([by_p, -by_q], dim=-1)
        return slope if self.dissipation is None else slope + _slope(self.dissipation, y)


def _potential(dim: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))


def _slope(potential: nn.Module, y: Tensor) -> Tensor:
    """(…, d), the gradient by y; `torch.func` takes it under no_grad and inference_mode too."""
    return torch.func.grad(lambda state: potential(state).sum())(y)
