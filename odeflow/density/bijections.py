"""Bijection: an invertible map with a known determinant, used between or around the flows of a density."""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from odeflow.errors import SettingError, StateError

MARGIN = 1e-4
"""Lower bound of the slope of a planar layer."""


class Bijection(nn.Module, ABC):
    """x = g(z), from the base to the data. Subclasses call `super().__init__()` first."""

    @abstractmethod
    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *state) ↦ (x of that shape, log |det ∂x/∂z|, (B,))."""

    @abstractmethod
    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *state) ↦ (z of that shape, log |det ∂z/∂x|, (B,))."""


class FittedBijection(Bijection):
    """A bijection that is fitted to data once, before training; until then it is the identity.

    Attributes:
        fitted: (), bool: whether it has been.
    """

    fitted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @abstractmethod
    def fit(self, x: Tensor) -> None:
        """Fits the map to data (N, dim)."""


class MovingBatchNorm(Bijection):
    """z = (x − m)/√(v + ε) · e^s + b, with running mean m and variance v of x, and learned s and b.

    Unlike batch normalisation it uses the running statistics in training too, so that samples do not depend on the
    rest of their batch. Each training batch that passes towards the base updates the statistics.

    Source: Dinh et al. (2017), "Density Estimation Using Real NVP", section 3.7, with moving averages as in the release
    of Grathwohl et al. (2019), "FFJORD".

    Args:
        dim: Number of features, along dimension 1.
        decay: Weight of each training batch in the moving averages m and v.
        eps: ε, added to the variance.

    Raises:
        SettingError: `decay` is not between 0 and 1.
    """

    mean: Tensor
    var: Tensor
    started: Tensor

    def __init__(self, dim: int, decay: float = 0.1, eps: float = 1e-4) -> None:
        super().__init__()
        if not 0 < decay <= 1:
            raise SettingError(f"MovingBatchNorm: decay must lie between 0 and 1; got {decay}")
        self.decay, self.eps = decay, eps
        self.log_scale, self.shift = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("var", torch.ones(dim))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        shift, mean, log_factor = self._laid_along(z)
        return (z - shift) * (-log_factor).exp() + mean, -_log_det(log_factor, z)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            self._update(x.detach())
        shift, mean, log_factor = self._laid_along(x)
        return (x - mean) * log_factor.exp() + shift, _log_det(log_factor, x)

    def _laid_along(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b, m, s − log √(v + ε)), each (features, 1, …), broadcastable with x."""
        log_factor = self.log_scale - (self.var + self.eps).log() / 2
        shape = (-1,) + (1,) * (x.dim() - 2)
        return self.shift.view(shape), self.mean.view(shape), log_factor.view(shape)

    @torch.no_grad()
    def _update(self, x: Tensor) -> None:
        mean, var = _moments(x.movedim(1, 0).flatten(1))
        weight = torch.where(self.started, self.decay, 1.0)  # the first batch sets the values
        self.mean = torch.lerp(self.mean, mean, weight)
        self.var = torch.lerp(self.var, var, weight)
        self.started = torch.ones_like(self.started)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (F,) of the rows of (F, N), over all processes that train together."""
    mean, var = features.mean(1), features.var(1, correction=0)
    if not (distributed.is_available() and distributed.is_initialized()):
        return mean, var
    mine = torch.stack([torch.full_like(mean, features.shape[1]), mean, var])
    parts = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, mine)
    counts, means, variances = torch.stack(parts, dim=1)  # (processes, F)
    share = counts / counts.sum(0)
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0)


def _log_det(log_factor: Tensor, x: Tensor) -> Tensor:
    """(B,), the log-determinant of scaling each feature of x by e^log_factor."""
    return (math.prod(x.shape[2:]) * log_factor.sum()).expand(len(x))


class Logit(Bijection):
    """x = (sigmoid(z) − α)/(1 − 2α): data in [0, 1], whose edges correspond to finite z.

    Source: Dinh et al. (2017), "Density Estimation Using Real NVP", section 4.1.

    Args:
        alpha: α, between 0 and ½.

    Raises:
        SettingError: α is out of range.
    """

    def __init__(self, alpha: float = 1e-6) -> None:
        super().__init__()
        if not 0 < alpha < 0.5:
            raise SettingError(f"Logit: alpha must lie between 0 and 0.5; got {alpha}")
        self.alpha = alpha

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha), -self._log_det(z)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        squeezed = self.alpha + (1 - 2 * self.alpha) * x
        if bool(((squeezed <= 0) | (squeezed >= 1)).any()):  # samples may exceed the data's range by α
            raise StateError(f"Logit needs data in [0, 1]; got {x.min():g} to {x.max():g}")
        z = torch.logit(squeezed)
        return z, self._log_det(z)

    def _log_det(self, z: Tensor) -> Tensor:
        """(B,), log |det ∂z/∂x|."""
        return (math.log(1 - 2 * self.alpha) + F.softplus(z) + F.softplus(-z)).flatten(1).sum(1)


class Affine(Bijection):
    """x = s z + m, with numbers s and m: a change of units.

    Args:
        scale: s, not 0.
        shift: m.

    Raises:
        SettingError: s is 0.
    """

    def __init__(self, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        if not scale:
            raise SettingError("Affine: scale must not be 0, since the map would have no inverse")
        self.scale, self.shift = scale, shift

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * z + self.shift, self._log_det(z)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - self.shift) / self.scale, -self._log_det(x)

    def _log_det(self, x: Tensor) -> Tensor:
        """(B,), log |det ∂x/∂z|."""
        return x.new_full((len(x),), math.prod(x.shape[1:]) * math.log(abs(self.scale)))


class Planar(Bijection):
    """x = z + û tanh(wᵀz + b): a layer of the planar normalizing flow, which deforms space along one direction.

    û = u + (softplus(wᵀu) − 1 + μ − wᵀu) w/‖w‖² keeps wᵀû > −1 + μ with μ = 1e-4, so that the map is invertible, and
    log |det ∂x/∂z| = log (1 + wᵀû (1 − tanh²(wᵀz + b))). The inverse has no closed form: s = wᵀz + b is the root of
    the increasing function s + wᵀû tanh s − wᵀx − b, found by bisection and a Newton step that carries the gradient.

    Source: Rezende & Mohamed (2015), "Variational Inference with Normalizing Flows", eqs. 10–12 and appendix A.1.

    Args:
        dim: Length d of a vector.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.u, self.w = nn.Parameter(torch.randn(dim) / dim**0.5), nn.Parameter(torch.randn(dim) / dim**0.5)
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        u, slope = self._invertible()
        s = z @ self.w + self.b
        return z + s.tanh()[:, None] * u, _planar_log_det(s, slope)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u, slope = self._invertible()
        s = _increasing_root(x @ self.w + self.b, slope)
        return x - s.tanh()[:, None] * u, -_planar_log_det(s, slope)

    def _invertible(self) -> tuple[Tensor, Tensor]:
        """û (d,), and wᵀû (), which is greater than −1 + μ."""
        product = self.w @ self.u
        slope = F.softplus(product) - 1 + MARGIN
        return self.u + (slope - product) * self.w / self.w.square().sum(), slope


def _planar_log_det(s: Tensor, slope: Tensor) -> Tensor:
    return torch.log1p(slope * (1 - s.tanh().square()))


def _increasing_root(value: Tensor, slope: Tensor) -> Tensor:
    """(B,), the root s of s + c tanh s = a, for a (B,) and c > −1 ()."""
    with torch.no_grad():
        below, above = value - slope.abs(), value + slope.abs()
        for _ in range(torch.finfo(value.dtype).bits):  # the bounds are then adjacent floats
            middle = (below + above) / 2
            low = middle + slope * middle.tanh() < value
            below, above = torch.where(low, middle, below), torch.where(low, above, middle)
        rate = 1 + slope * (1 - above.tanh().square())
    return above - (above + slope * above.tanh() - value) / rate
