"""Driven: controlled differential equations dz = f(z) dX."""

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_cde.product import Product


class Driven(of.Modifier):
    """dz/dt = f(t, z) dX/dt, with a matrix f of w rows and a column for each of the c channels of a path X.

    The path is the flow's `context`, which enters by its derivative alone. The matrix is built on a field g of width w:
    f(t, z) = tanh(W σ(g(t, z)) + b), reshaped; so `MLP(dim=w, hidden=[w, w])` gives a perceptron with three hidden
    layers. A `Product` is multiplied by dX/dt as it is, without this matrix.

    Time is no input unless it is a channel: the solution then depends on the path that X describes, not on the speed at
    which it runs through it. Include time as a channel where that matters.

    Source: Kidger, Morrill, Foster & Lyons (2020), "Neural Controlled Differential Equations for Irregular Time
    Series", equation 3 and section 3; the final tanh: appendix.

    Args:
        dynamics: The field g, or a `Product`.
        channels: Number c of the channels of X.
        bounded: Whether the final tanh is applied; without it, solutions of long series may grow without bound.

    Raises:
        SettingError: The number of channels is not positive, or not that of the product.

    Example:
        >>> import torch
        >>> import odeflow as of
        >>> from odeflow_cde import Driven
        >>> from odeflow_dynamics import MLP
        >>> from odeflow_solvers import RK4
        >>> t = torch.arange(5.0)
        >>> path = of.paths.Hermite(t, torch.randn(8, 5, 3))  # 8 series of 5 observations of length 3
        >>> flow = of.Flow(Driven(MLP(dim=16, time="none"), channels=3), RK4(step_size=1.0))
        >>> flow.trajectory(torch.zeros(8, 16), t, context=path).y.shape
        torch.Size([5, 8, 16])
    """

    def __init__(self, dynamics: of.Dynamics, channels: int, bounded: bool = True) -> None:
        of.check_least(self, 1, channels=channels)
        super().__init__(dynamics)
        self.driven, self.channels, self.state, self.bounded = True, channels, dynamics.width, bounded
        self.width = self.state + channels
        if isinstance(dynamics, Product) and dynamics.channels != channels:
            raise of.SettingError(
                f"Driven(channels={channels}): {type(dynamics).__name__} has {dynamics.channels} channels"
            )
        if isinstance(dynamics, Product):
            self.columns = None
        else:
            self.columns = nn.Sequential(nn.SiLU(), nn.Linear(self.state, self.state * channels))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, w + c) ↦ (B, w + c): [z, dX/dt] ↦ [dz/dt, 0].

        Raises:
            StateError: The state and the path do not have these sizes.
        """
        if y.dim() != 2 or y.shape[1] != self.width:
            raise of.StateError(
                f"Driven takes states (B, {self.state}) and a path of {self.channels} channels as context, together "
                f"(B, {self.width}); got {tuple(y.shape)}"
            )
        z, dx = y.split((self.state, self.channels), dim=1)
        return torch.cat((self.product(t, z, dx), torch.zeros_like(dx)), dim=1)

    def product(self, t: Tensor, z: Tensor, dx: Tensor) -> Tensor:
        """f(t, z) dx, as of `Product`."""
        if self.columns is None:
            assert isinstance(self.dynamics, Product)
            return self.dynamics.product(t, z, dx)
        return torch.einsum("bwc,bc->bw", self.matrix(t, z), dx)

    def matrix(self, t: Tensor, z: Tensor) -> Tensor:
        """(B, w) ↦ (B, w, c), the matrix f."""
        if self.columns is None:
            basis = torch.eye(self.channels, dtype=z.dtype, device=z.device)
            return torch.stack([self.product(t, z, each.expand(len(z), -1)) for each in basis], dim=2)
        value = self.columns(self.dynamics(t, z))
        return (value.tanh() if self.bounded else value).unflatten(1, (self.state, self.channels))
