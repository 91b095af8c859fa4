"""PlanarDensity: a density of the plane that can be both drawn from and computed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from torch import Tensor

Points = NDArray[np.float64]
"""(N, 2)."""

CHUNK = 1024
"""Number of points at which a density is computed at once, since a curve has hundreds of nodes."""


@dataclass(frozen=True)
class PlanarDensity:
    """A density that lies on the square [−6, 6]², but for less than 1e-9 of it.

    Attributes:
        draw: Points (N, 2), given N and a generator.
        log_formula: log p(x), (N,), given points x (N, 2) in float64.
    """

    draw: Callable[[int, RandomState], Points]
    log_formula: Callable[[Tensor], Tensor]

    def log_density(self, x: Tensor) -> Tensor:
        """The logarithm of p(x) in nats, exact but for rounding where p > 1e-300.

        Args:
            x: (N, 2), in float64.

        Returns:
            (N,), −∞ outside the squares of the checkerboard.
        """
        return torch.cat([self.log_formula(part) for part in x.split(CHUNK)])

    def entropy(self) -> float:
        """−∫ p log p in nats, by the midpoint rule.

        Its error falls exponentially with noise/width for densities that noise has made smooth. It is none for the
        checkerboard, whose edges lie on those of the cells.
        """
        return _entropy(self)


@cache
def _entropy(density: PlanarDensity) -> float:
    width = 0.08
    at = torch.arange(-6 + width / 2, 6, width, dtype=torch.float64)
    p = density.log_density(torch.cartesian_prod(at, at)).exp()
    return (torch.special.entr(p).sum() * width**2).item()


# Gaussians about points, curves and circles


def _gaussians(centers: Points, weights: NDArray[np.float64], std: float, x: Tensor) -> Tensor:
    """The mixture log Σₖ wₖ N(x; cₖ, σ²I). With the nodes of a quadrature it is a curve blurred by noise."""
    squares = (x[:, None] - x.new_tensor(centers)).square().sum(dim=2)
    return (x.new_tensor(weights).log() - squares / (2 * std**2)).logsumexp(dim=1) - math.log(2 * math.pi * std**2)


@cache
def _quadrature(low: float, high: float, nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss–Legendre nodes and weights; the weights add up to 1."""
    at, weights = np.polynomial.legendre.leggauss(nodes)
    return low + (at + 1) / 2 * (high - low), weights / 2


def _circles(radii: tuple[float, ...], std: float, x: Tensor) -> Tensor:
    """The mean of circles blurred by noise, each of them exp(−(r² + R²)/2σ²) I₀(rR/σ²) / 2πσ² at radius r."""
    r, radius = x.norm(dim=1, keepdim=True), x.new_tensor(radii)
    # i0e(z) = exp(−z) I₀(z)
    each = torch.special.i0e(r * radius / std**2).log() - (r - radius) ** 2 / (2 * std**2)
    return each.logsumexp(dim=1) - math.log(2 * math.pi * std**2 * len(radii))


def _draw_two_moons(count: int, random: RandomState) -> Points:
    from sklearn.datasets import make_moons

    return 2 * np.asarray(make_moons(count, noise=0.1, random_state=random)[0]) + np.array([-1, -0.2])


def _log_two_moons(x: Tensor) -> Tensor:
    angle, weights = _quadrature(0, math.pi, 96)
    outer = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    both = np.concatenate([outer, np.array([1, 0.5]) - outer])  # (1 − cos, 1 − sin − ½)
    return _gaussians(2 * both + np.array([-1, -0.2]), np.tile(weights / 2, 2), 0.2, x)


def _draw_two_circles(count: int, random: RandomState) -> Points:
    from sklearn.datasets import make_circles

    return 3 * np.asarray(make_circles(count, factor=0.5, noise=0.08, random_state=random)[0])


def _draw_swiss_roll(count: int, random: RandomState) -> Points:
    from sklearn.datasets import make_swiss_roll

    return make_swiss_roll(count, noise=1.0, random_state=random)[0][:, [0, 2]] / 5


def _log_swiss_roll(x: Tensor) -> Tensor:
    angle, weights = _quadrature(1.5 * math.pi, 4.5 * math.pi, 256)
    return _gaussians(np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1) / 5, weights, 0.2, x)


RINGS = (0.75, 1.5, 2.25, 3.0)
RING_STD = 0.08


def _draw_rings(count: int, random: RandomState) -> Points:
    angle, radius = 2 * math.pi * random.rand(count), np.array(RINGS)[random.randint(len(RINGS), size=count)]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1) + RING_STD * random.randn(count, 2)


EIGHTHS = math.pi / 4 * np.arange(8)
CENTERS = 4 / 1.414 * np.stack([np.cos(EIGHTHS), np.sin(EIGHTHS)], axis=1)
CENTER_STD = 0.5 / 1.414


def _draw_8gaussians(count: int, random: RandomState) -> Points:
    return CENTERS[random.randint(8, size=count)] + CENTER_STD * random.randn(count, 2)


# The spirals: a point of the curve, with noise that is uniform, and noise that is Gaussian

TURNS = 3 * math.pi
BOX, SPIRAL_STD = 0.5 / 3, 0.1


def _spiral(angle: NDArray[np.float64]) -> Points:
    return np.stack([-angle * np.cos(angle), angle * np.sin(angle)], axis=1) / 3


def _draw_two_spirals(count: int, random: RandomState) -> Points:
    sign = 2 * random.randint(2, size=(count, 1)) - 1
    curve = _spiral(TURNS * np.sqrt(random.rand(count)))
    return sign * (curve + BOX * random.rand(count, 2)) + SPIRAL_STD * random.randn(count, 2)


def _log_two_spirals(x: Tensor) -> Tensor:
    return torch.logaddexp(_log_spiral(x), _log_spiral(-x)) - math.log(2)


def _log_spiral(x: Tensor) -> Tensor:
    """One arm: log ∫ 2θ/(3π)² ∏ᵢ (Φ(bᵢ) − Φ(aᵢ))/w dθ, bᵢ = (xᵢ − cᵢ(θ))/σ, aᵢ = bᵢ − w/σ, w the box's width.

    The difference is even about aᵢ + bᵢ = 0, and there it is taken where its terms are small, to lose no digits.
    """
    angle, weights = _quadrature(0, TURNS, 384)
    half = BOX / SPIRAL_STD / 2
    away = ((x[:, None] - x.new_tensor(_spiral(angle))) / SPIRAL_STD - half).abs() / math.sqrt(2)  # (N, nodes, 2)
    shift = half / math.sqrt(2)
    inside = (torch.erfc(away - shift) - torch.erfc(away + shift)) / (2 * BOX)
    inside = inside.clamp_min(1e-300)  # at 37 standard deviations, lest far nodes make gradients NaN
    return (x.new_tensor(weights * 2 * angle / TURNS).log() + inside.log().sum(dim=2)).logsumexp(dim=1)


# The pinwheel: Gaussians (u, v) that are turned the further, the larger u is

ARMS, RATE = 5, 0.25
RADIAL_STD, TANGENTIAL_STD = 0.3, 0.1


def _draw_pinwheel(count: int, random: RandomState) -> Points:
    u, v = 1 + RADIAL_STD * random.randn(count), TANGENTIAL_STD * random.randn(count)
    angle = 2 * math.pi / ARMS * random.randint(ARMS, size=count) + RATE * np.exp(u)
    return 2 * np.stack([u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)], axis=1)


def _log_pinwheel(x: Tensor) -> Tensor:
    """The sum log Σ p(u, v)/5|det| over all (u, v) and arms that are mapped to x.

    The map x = 2 R(−ψ − ρ exp u)(u, v), with R a rotation and ψ the arm's angle, has |det| = 4 |1 + ρ v exp u|. It
    keeps the radius, ‖x‖ = 2r, and takes (u, v) = r (cos α, sin α) to the angle α − ρ exp(r cos α) − ψ. The α that
    are taken to the angle of x are bracketed by a grid on the circle and found by bisection. Grid cells with two of
    them are near folds, v = −exp(−u)/ρ, or at ‖x‖ > 10; no mass lies at either.
    """
    r, angle = x.norm(dim=1, keepdim=True) / 2, torch.atan2(x[:, 1:], x[:, :1])

    def excess(alpha: Tensor, r: Tensor, angle: Tensor) -> Tensor:
        """By how many arms the image lies beyond x: a whole number where it hits, since arms are alike."""
        return (alpha - RATE * torch.exp(r * alpha.cos()) - angle) * ARMS / (2 * math.pi)

    with torch.no_grad():
        grid = torch.linspace(-math.pi, math.pi, 129, dtype=x.dtype, device=x.device)
        floor = excess(grid, r, angle).floor()  # (N, 129)
        left, right = floor[:, :-1], floor[:, 1:]
        row, cell = (left != right).nonzero(as_tuple=True)
        level, rising = torch.maximum(left, right)[row, cell], (left < right)[row, cell]
        below, above = torch.where(rising, grid[cell], grid[cell + 1]), torch.where(rising, grid[cell + 1], grid[cell])
        for _ in range(24):
            middle = (below + above) / 2
            under = excess(middle, r[row, 0], angle[row, 0]) < level
            below, above = torch.where(under, middle, below), torch.where(under, above, middle)
    r, angle = r[row, 0], angle[row, 0]
    shear = 1 + RATE * r * above.sin() * torch.exp(r * above.cos())
    alpha = above - (excess(above, r, angle) - level) / (shear * ARMS / (2 * math.pi))  # whose derivative is exact
    u, v = r * alpha.cos(), r * alpha.sin()
    base = -(((u - 1) / RADIAL_STD) ** 2 + (v / TANGENTIAL_STD) ** 2) / 2
    log_det = (1 + RATE * v * torch.exp(u)).abs().log() + math.log(4)
    each = base - math.log(2 * math.pi * RADIAL_STD * TANGENTIAL_STD * ARMS) - log_det
    return x.new_full(left.shape, -math.inf).index_put((row, cell), each).logsumexp(dim=1)


# The checkerboard: eight squares of the width 2


def _draw_checkerboard(count: int, random: RandomState) -> Points:
    fine = 2**22  # a grid that float32 holds exactly, so that no point is rounded out of its square
    across, up = (random.randint(fine, size=(2, count)) + 0.5) / fine
    column = 4 * across - 2
    return 2 * np.stack([column, up - 2 * random.randint(2, size=count) + np.floor(column) % 2], axis=1)


def _log_checkerboard(x: Tensor) -> Tensor:
    column, row = (x / 2).unbind(dim=1)
    row = row - column.floor().clamp(-2, 1) % 2
    inside = (column.abs() <= 2) & (((row + 1.5).abs() <= 0.5) | ((row - 0.5).abs() <= 0.5))
    return x.new_full(inside.shape, -math.log(32)).masked_fill(~inside, -math.inf)


DENSITIES = {
    "two_moons": PlanarDensity(_draw_two_moons, _log_two_moons),
    "two_circles": PlanarDensity(_draw_two_circles, partial(_circles, (3.0, 1.5), 0.24)),
    "8gaussians": PlanarDensity(_draw_8gaussians, partial(_gaussians, CENTERS, np.full(8, 1 / 8), CENTER_STD)),
    "pinwheel": PlanarDensity(_draw_pinwheel, _log_pinwheel),
    "checkerboard": PlanarDensity(_draw_checkerboard, _log_checkerboard),
    "two_spirals": PlanarDensity(_draw_two_spirals, _log_two_spirals),
    "swiss_roll": PlanarDensity(_draw_swiss_roll, _log_swiss_roll),
    "rings": PlanarDensity(_draw_rings, partial(_circles, RINGS, RING_STD)),
}
"""By the names under which `ToyDensity` offers them."""
