"""OwnClock: a field with per-sample start times."""

import torch
from torch import Tensor

import odeflow as of


class OwnClock(of.Modifier):
    """dy/dt = f(t + s, y) with a per-sample start time s, so that one solve covers different start times.

    s is the last feature of the field's input, passed to `Flow.trajectory` as `context`, (B, 1). In a solve without
    context s is 0.

    Args:
        dynamics: The field f.
    """

    def __init__(self, dynamics: of.Dynamics) -> None:
        super().__init__(dynamics)
        self.entered = dynamics.width

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, d) or, with s, (B, d + 1) ↦ the same shape, with ds/dt = 0."""
        if y.shape[1] == self.entered:
            return self.dynamics(t, y)
        y, start = y[:, :-1], y[:, -1]
        return torch.cat([self.dynamics(t.to(start) + start, y), torch.zeros_like(start[:, None])], dim=1)

    def enter(self, y0: Tensor) -> Tensor:
        """As of the modified field."""
        state = super().enter(y0)
        self.entered = state.shape[1]
        return state
