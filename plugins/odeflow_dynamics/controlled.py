"""Controlled: a field that depends on the flow's input at every time."""

import torch
from torch import Tensor

import odeflow as of


class Controlled(of.Modifier):
    """dy/dt = f(t, [y, x]) with y(t₀) = x, the flow's input.

    The state of the solve is [y, x] along dimension 1, with dx/dt = 0; the flow returns y. Only the first half of the
    field's output for [y, x] is used. Since the field depends on the input, solutions with different inputs may cross.
    An adaptive solver includes x, which has no error, in the error norm, so that its tolerance is effectively looser by
    √2.

    Source: Massaroli et al. (2020), "Dissecting Neural ODEs" (data-controlled neural ODEs).

    Args:
        dynamics: The field f, of width 2d.

    Attributes:
        width: d.

    Raises:
        SettingError: The width of the dynamics is odd.
    """

    def __init__(self, dynamics: of.Dynamics) -> None:
        if dynamics.width % 2:
            raise of.SettingError(
                f"Controlled needs dynamics of width 2d, for state and input; {type(dynamics).__name__} has the odd "
                f"width {dynamics.width}. Give it twice the width of the state"
            )
        super().__init__(dynamics)
        self.width = dynamics.width // 2

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, 2d, …) ↦ (B, 2d, …): dy/dt and dx/dt = 0."""
        dy = self.dynamics(t, y)[:, : self.width]
        return torch.cat([dy, torch.zeros_like(dy)], dim=1)

    def enter(self, y0: Tensor) -> Tensor:
        """(B, d, …) ↦ (B, 2d, …): [x, x].

        Raises:
            StateError: The state does not have d features or channels.
            SettingError: The field that is modified solves for something else than its input.
        """
        if y0.dim() < 2 or y0.shape[1] != self.width:
            raise of.StateError(f"Controlled takes states (B, {self.width}, …); got {tuple(y0.shape)}")
        pair = torch.cat([y0, y0], dim=1)
        state = super().enter(pair)
        if state.shape != pair.shape:
            raise of.SettingError(
                f"Controlled holds the second half of the state still, but {type(self.dynamics).__name__} solves for "
                f"{tuple(state.shape)} instead of the state {tuple(pair.shape)}. Wrap the other way round"
            )
        return state

    def leave(self, y: Tensor) -> Tensor:
        """(B, 2d, …) ↦ (B, d, …): y only."""
        return super().leave(y)[:, : self.width]
