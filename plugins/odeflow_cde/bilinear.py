"""Bilinear: a linear controlled equation."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_cde.product import Product


class Bilinear(Product):
    """dz = ∑ᵢ Aᵢ z dXᵢ, linear in the state.

    If the matrices commute, z(t₁) = exp(∑ᵢ Aᵢ (Xᵢ(t₁) − Xᵢ(t₀))) z(t₀), whatever the path between.

    Args:
        dim: Length w of the state.
        channels: Number c of the channels of X.
        matrices: (c, w, w), the initial matrices Aᵢ; by default random, uniform in ±1/√w.

    Raises:
        SettingError: A size is not positive, or the matrices have another shape.

    Example:
        >>> import torch
        >>> import odeflow as of
        >>> from odeflow_cde import Bilinear, Driven
        >>> from odeflow_solvers import Dopri5
        >>> path = of.paths.Linear(torch.tensor([0.0, 1.0]), torch.tensor([[[0.0], [2.0]]]))
        >>> flow = of.Flow(Driven(Bilinear(dim=1, channels=1, matrices=[[[1.0]]]), channels=1), Dopri5())
        >>> bool((flow(torch.ones(1, 1), context=path) - torch.e**2).abs() < 1e-3)
        True
    """

    def __init__(self, dim: int, channels: int, matrices: Sequence[Sequence[Sequence[float]]] | None = None) -> None:
        super().__init__()
        of.check_least(self, 1, dim=dim, channels=channels)
        shape = (channels, dim, dim)
        given = (2 * torch.rand(shape) - 1) / math.sqrt(dim) if matrices is None else torch.tensor(matrices)
        if given.shape != shape:
            raise of.SettingError(f"Bilinear: matrices must have shape {shape}; got {tuple(given.shape)}")
        self.width, self.channels = dim, channels
        self.matrices = nn.Parameter(given)

    def product(self, t: Tensor, z: Tensor, dx: Tensor) -> Tensor:
        moved = torch.einsum("bi,bj->bij", dx, z).flatten(1)
        return moved @ self.matrices.transpose(1, 2).flatten(0, 1).to(z)
