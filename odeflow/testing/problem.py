"""Problem: an equation with a known solution, for testing solvers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Problem:
    """A nonlinear, time-dependent equation in float64 with a known solution.

    Attributes:
        formula: The equation, for messages.
        field: The vector field, with parameters.
        solution: t ↦ (B, d), the exact states at a time.
        t0: First time.
        t1: Last time.
        autonomous: An autonomous variant, which tells errors of the nodes from others; None if there is none.
    """

    formula: str
    field: nn.Module
    solution: Callable[[float], Tensor]
    t0: float
    t1: float
    autonomous: "Problem | None" = None

    @property
    def span(self) -> float:
        """t1 − t0."""
        return self.t1 - self.t0


class Spiral(nn.Module):
    """u′ = −a s |u|² u + b |u|² Ju with J a rotation by 90°, where s is the time, or 1 in the autonomous case.

    It is a system because a scalar equation does not test all order conditions from order 5 on.

    Args:
        timed: Whether s is the time.
    """

    def __init__(self, timed: bool) -> None:
        super().__init__()
        self.timed = timed
        self.shrink = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.turn = nn.Parameter(torch.full((), 2.5, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, 2) ↦ (B, 2)."""
        square = y.square().sum(-1, keepdim=True)
        turned = torch.stack((-y[..., 1], y[..., 0]), -1)
        rate = self.shrink * t[..., None] if self.timed else self.shrink
        return square * (self.turn * turned - rate * y)


def _spiral(t: float, timed: bool) -> Tensor:
    """|u|⁻² = c + a t² or c + 2 a t, and the angle is b ∫ |u|² dt."""
    c = torch.tensor([1.0, 1.5, 2.5], dtype=torch.float64)
    phase = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)
    if timed:
        inverse = c + t**2
        angle = 2.5 * torch.atan(t / c.sqrt()) / c.sqrt()
    else:
        inverse = c + 2 * t
        angle = 1.25 * inverse.log()
    angle = phase + angle
    return torch.stack((angle.cos(), angle.sin()), -1) / inverse.sqrt()[:, None]


SPIRAL = Problem(
    "u' = |u|² (2.5 Ju − t u)",
    Spiral(timed=True),
    lambda t: _spiral(t, timed=True),
    -0.3,
    1.2,
    Problem("u' = |u|² (2.5 Ju − u)", Spiral(timed=False), lambda t: _spiral(t, timed=False), -0.3, 1.2),
)
"""The problem for every solver: three samples in two dimensions."""


class Particle(nn.Module):
    """q′ = p, p′ = −2 q² + 8 t² q³: separable, as symplectic methods require; q = 1/(c + t²) for any c."""

    def __init__(self) -> None:
        super().__init__()
        self.pull = nn.Parameter(torch.full((), 2.0, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, 2) ↦ (B, 2)."""
        q, p = y.unbind(-1)
        return torch.stack((p, -self.pull * q**2 + 8 * t**2 * q**3), -1)


def _particle(t: float) -> Tensor:
    q = 1 / (torch.tensor([1.0, 1.5, 2.5], dtype=torch.float64) + t**2)
    return torch.stack((q, -2 * t * q**2), -1)


PARTICLE = Problem("q'' = −2q² + 8t²q³", Particle(), _particle, -0.3, 1.2)
"""The problem for solvers of second-order equations. The state is (q, p) along the last dimension."""
