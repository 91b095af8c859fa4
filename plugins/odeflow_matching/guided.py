"""Guided: classifier-free guidance."""

import torch
from torch import Tensor, nn

import odeflow as of


class Guided(of.Modifier):
    """f(t, [y, 0]) + s (f(t, [y, c]) − f(t, [y, 0])), a field that follows its condition more, or less, than the data.

    It needs a field that was trained with `FlowMatching.drop`, so that it also knows the data without a condition,
    which is c = 0. For s = 1, and in training, it is the field itself; for others an evaluation costs two. The density
    remains exact, but of the guided flow, which is not that of the data.

    Source: Ho & Salimans (2021), "Classifier-Free Diffusion Guidance"; for flows: Zheng et al. (2023), "Guided Flows".

    Args:
        dynamics: The field f.
        conditions: Number of conditions c, the last entries of its input.
        scale: s.

    Raises:
        SettingError: There are no conditions, or as many as the field is wide.
    """

    def __init__(self, dynamics: of.Dynamics, conditions: int = 10, scale: float = 1.0) -> None:
        super().__init__(dynamics)
        of.check_range(self, f"[1, {self.width - 1}]", conditions=conditions)
        self.conditions, self.scale = conditions, scale

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, d + c, …) ↦ (B, d + c, …)."""
        given = self.dynamics(t, y)
        if self.training or self.scale == 1:
            return given
        free = torch.cat([y[:, : -self.conditions], torch.zeros_like(y[:, -self.conditions :])], dim=1)
        return torch.lerp(self.dynamics(t, free), given, self.scale)


def unguided(field: nn.Module) -> nn.Module:
    """The field that is trained, without guidance."""
    return field.dynamics if isinstance(field, Guided) else field
