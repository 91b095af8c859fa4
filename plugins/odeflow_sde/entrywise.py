"""Entrywise: each entry of the state has a small network of its own."""

import torch
from torch import Tensor, nn

import odeflow as of


class Entrywise(of.Dynamics):
    """A vector whose entry i depends on entry i of the state alone, by a network with one hidden layer.

    As a diffusion its noise commutes, as `Milstein` and adaptive steps need. Its values lie between two bounds.

    Source: Li et al. (2020), "Scalable Gradients for Stochastic Differential Equations", section 9.9, for the form.

    Args:
        dim: Length d of the state.
        hidden: Width of the hidden layer of each entry.
        largest: The upper bound of the values.
        smallest: The lower bound, which keeps |(f − h)/g|² of a `LatentSDE` finite.

    Raises:
        SettingError: A number is not positive, or the bounds are not in order.
    """

    def __init__(self, dim: int, hidden: int = 100, largest: float = 1.0, smallest: float = 0.01) -> None:
        super().__init__()
        of.check_least(self, 1, dim=dim, hidden=hidden)
        if not 0 <= smallest < largest:
            raise of.SettingError(f"Entrywise expects 0 ≤ smallest < largest; got {smallest} and {largest}")
        self.width, self.smallest, self.range = dim, smallest, largest - smallest
        layers = [nn.Linear(1, hidden) for _ in range(dim)], [nn.Linear(hidden, 1) for _ in range(dim)]
        self.weight = nn.Parameter(torch.stack([layer.weight[:, 0] for layer in layers[0]]).detach())  # (d, hidden)
        self.bias = nn.Parameter(torch.stack([layer.bias for layer in layers[0]]).detach())
        self.out = nn.Parameter(torch.stack([layer.weight[0] for layer in layers[1]]).detach())
        self.shift = nn.Parameter(torch.stack([layer.bias[0] for layer in layers[1]]).detach())  # (d,)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, d) ↦ (B, d)."""
        hidden = nn.functional.softplus(torch.addcmul(self.bias, y[..., None], self.weight))
        return self.smallest + self.range * torch.sigmoid((hidden * self.out).sum(-1) + self.shift)
