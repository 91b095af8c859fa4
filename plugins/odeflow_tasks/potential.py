"""Potential: densities in the plane given by their energy."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

REACH, WIDTH = 8.0, 0.02
"""Half the side of the square over which densities are integrated, and the side of a cell."""
WALL = 0.4
"""Standard deviation with which densities that do not decay are cut off beyond |x₁| = 4."""


@dataclass(frozen=True)
class Potential:
    """The density p(x) = exp(−U(x)) / Z on the plane.

    Attributes:
        energy: U(x), (N,), given x (N, 2).
    """

    energy: Callable[[Tensor], Tensor]

    def log_density(self, x: Tensor) -> Tensor:
        """(N,), log p(x) in nats, given x (N, 2)."""
        return -self.energy(x) - _log_factor(self)


@cache
def _log_factor(potential: Potential) -> float:
    """The logarithm of Z, by the midpoint rule, which converges exponentially for these smooth densities."""
    at = torch.arange(-REACH + WIDTH / 2, REACH, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        return (-potential.energy(torch.cartesian_prod(at, at))).logsumexp(0).item() + 2 * math.log(WIDTH)


def _square(value: Tensor, std: float) -> Tensor:
    return (value / std).square() / 2


def _ring(x: Tensor) -> Tensor:
    sides = torch.stack([-_square(x[:, 0] - 2, 0.6), -_square(x[:, 0] + 2, 0.6)]).logsumexp(0)
    return _square(x.norm(dim=1) - 2, 0.4) - sides


def _above_wave(x: Tensor) -> Tensor:
    """x₂ − w₁(x₁)."""
    return x[:, 1] - torch.sin(math.pi / 2 * x[:, 0])


def _walls(x: Tensor) -> Tensor:
    return _square(F.relu(x[:, 0].abs() - 4), WALL)


def _wave(x: Tensor) -> Tensor:
    return _square(_above_wave(x), 0.4) + _walls(x)


def _bump(x: Tensor) -> Tensor:
    height, bump = _above_wave(x), 3 * torch.exp(-_square(x[:, 0] - 1, 0.6))
    return _walls(x) - torch.stack([-_square(height, 0.35), -_square(height + bump, 0.35)]).logsumexp(0)


def _fork(x: Tensor) -> Tensor:
    height, step = _above_wave(x), 3 * torch.sigmoid((x[:, 0] - 1) / 0.3)
    return _walls(x) - torch.stack([-_square(height, 0.4), -_square(height + step, 0.35)]).logsumexp(0)


POTENTIALS = {"U1": Potential(_ring), "U2": Potential(_wave), "U3": Potential(_bump), "U4": Potential(_fork)}
"""The potentials of Rezende & Mohamed (2015), "Variational Inference with Normalizing Flows", table 1, by name.

U2, U3 and U4 do not decay along x₁; the walls make them normalisable.
"""
