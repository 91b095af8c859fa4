"""TimeEmbedding: sinusoidal features of time."""

import math

import torch
from torch import Tensor, nn

import odeflow as of


class TimeEmbedding(nn.Module):
    """φ(t) = [sin ω₁t, …, sin ωₙt, cos ω₁t, …, cos ωₙt] with geometrically spaced periods 2π/ω.

    The features are smooth and bounded by 1. The default periods are long enough for solvers on [0, 1], and still
    distinguish times up to 32 away from 0.

    Source: Vaswani et al. (2017), "Attention Is All You Need", section 3.5, with other periods.

    Args:
        size: Number 2n of features.
        shortest: The shortest period, in the field's time.
        longest: The longest period, in the field's time.

    Raises:
        SettingError: The size is not even and positive, or the periods are not positive.
    """

    frequencies: Tensor

    def __init__(self, size: int, shortest: float = 0.5, longest: float = 32.0) -> None:
        super().__init__()
        if size < 2 or size % 2:
            raise of.SettingError(f"TimeEmbedding: size must be an even number, at least 2; got {size}")
        if not 0 < shortest <= longest:
            raise of.SettingError(f"TimeEmbedding: it needs 0 < shortest <= longest; got {shortest} and {longest}")
        octaves = torch.linspace(math.log2(longest), math.log2(shortest), size // 2)
        self.register_buffer("frequencies", 2 * math.pi * torch.exp2(-octaves), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """() ↦ (size,), or (…) ↦ (…, size)."""
        angles = t.unsqueeze(-1).to(self.frequencies) * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
