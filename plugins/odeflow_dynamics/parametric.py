"""Parametric: a field whose last state entries are constant parameters of the others."""

import torch
from torch import Tensor

import odeflow as of


class Parametric(of.Modifier):
    """d(x, θ)/dt = (f(t, x, θ), 0): each trajectory has parameters of its own, such as a frequency, which last.

    Args:
        dynamics: The field, of the whole state (x, θ), whose last outputs are not used.
        parameters: Length of θ.

    Raises:
        SettingError: There would be no x.

    Example:
        >>> from odeflow_dynamics import MLP
        >>> field = Parametric(MLP(dim=4, time="none"), parameters=2)
        >>> field(torch.zeros(()), torch.randn(5, 4))[:, 2:].abs().max().item()
        0.0
    """

    def __init__(self, dynamics: of.Dynamics, parameters: int = 1) -> None:
        super().__init__(dynamics)
        if not 0 < parameters < dynamics.width:
            raise of.SettingError(
                f"Parametric: parameters must lie between 1 and {dynamics.width - 1}, the width of the state less one; "
                f"got {parameters}"
            )
        self.parameters_count = parameters

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, d) ↦ (B, d)."""
        change = self.dynamics(t, y)
        moving = self.width - self.parameters_count
        return torch.cat([change[:, :moving], torch.zeros_like(change[:, moving:])], dim=1)
