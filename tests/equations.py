"""Equations that several tests solve, and losses of their solutions."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

import odeflow as of

D = torch.float64
G = 9.81


def column(t: Tensor, y: Tensor) -> Tensor:
    """The time () or (B,) in a shape that broadcasts with y, (B, …)."""
    return t.view(-1, *(1,) * (y.dim() - 1)) if t.dim() else t


def riccati(t: Tensor, y: Tensor) -> Tensor:
    """y′ = −2ty², whose solution from y(t₀) is 1/(1/y(t₀) + t² − t₀²): nonlinear, and dependent on time."""
    return -2 * column(t, y) * y**2


def rotation(t: Tensor, y: Tensor) -> Tensor:
    """(cos, −sin) from (1, 0): separable, and it makes no error larger or smaller."""
    return torch.stack((y[..., 1], -y[..., 0]), -1)


def brusselator(t: Tensor, y: Tensor) -> Tensor:
    """Smooth, with fast and slow stretches (Hairer, Nørsett & Wanner, I.16)."""
    a, b = y.unbind(-1)
    return torch.stack((1 + a * a * b - 4 * a, 3 * a - a * a * b), -1)


def van_der_pol(mu: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A relaxation oscillation, q″ = μ (1 − q²) q′ − q: the stiffer, the larger μ."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        q, p = y.unbind(-1)
        return torch.stack((p, mu * (1 - q**2) * p - q), -1)

    return field


def fall(t: Tensor, y: Tensor) -> Tensor:
    """Bodies in free fall: height and speed."""
    return torch.stack((y[..., 1], torch.full_like(y[..., 1], -G)), -1)


def height(t: Tensor, y: Tensor) -> Tensor:
    """The first entry of the state: an event where it is zero."""
    return y[..., 0]


def drag(t: Tensor, y: Tensor, gravity: Tensor, friction: Tensor) -> Tensor:
    """Free fall with drag that depends on time."""
    speed = y[..., 1]
    return torch.stack((speed, -gravity - friction * (1 + 0.5 * torch.sin(t)) * speed), -1)


def jumping(closed: bool = True) -> Callable[[Tensor, Tensor], Tensor]:
    """y′ = 2y + sin t up to t = 1, and −5y from there; at the jump it belongs by t ≥ 1 or t > 1 to either side."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        t = column(t, y)
        return torch.where(t >= 1 if closed else t > 1, -5 * y, 2 * y + torch.sin(t))

    return field


def after_the_jump(y0: Tensor, t: float) -> Tensor:
    """The solution of `jumping` at a time from 1 on: y(1) = e² y₀ + (e² − 2 sin 1 − cos 1)/5 falls as e^(−5t)."""
    at_jump = math.e**2 * y0.double() + (math.e**2 - 2 * math.sin(1) - math.cos(1)) / 5
    return at_jump * math.exp(-5 * (t - 1))


class Pendulum(nn.Module):
    """A nonlinear, time-dependent field with parameters, in float64, one of them frozen and one unused."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner = nn.Linear(3, 8, dtype=D)
        self.outer = nn.Linear(8, 3, dtype=D)
        self.frozen = nn.Parameter(torch.full((3,), -0.1, dtype=D), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2, dtype=D))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(2 * t) * self.outer(torch.tanh(self.inner(y))) + self.frozen * y**3


class Coupled(nn.Module):
    """A field of three dimensions, and a number that follows it: on tuples of two tensors of different shapes."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        position, energy = y
        slope = self.field(t, position)
        return slope, (slope * position).sum(1) * torch.sin(t) - 0.3 * energy


def loss_of(solution: of.Solution) -> Tensor:
    """A loss that looks at every row, each with another weight."""
    leaves = solution.y if isinstance(solution.y, tuple) else (solution.y,)
    weights = [torch.linspace(-1, 2, leaf.numel(), dtype=D).view(leaf.shape) for leaf in leaves]
    return torch.stack([(weight * leaf.sin()).sum() for weight, leaf in zip(weights, leaves, strict=True)]).sum()
