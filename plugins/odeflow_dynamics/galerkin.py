"""Galerkin: time-dependent parameters as a series expansion."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.shift import Shift


class Galerkin(of.Modifier):
    """dy/dt = f(t, y; θ(t)) with θ(t) = θ₀ + Σ_k c_k φ_k(s), s = (t − t₀)/(t₁ − t₀), for every trainable parameter.

    The functions φ_k are

    - "polynomial": Chebyshev polynomials T_k(2s − 1), k = 1 … K, which lie in [−1, 1] between t₀ and t₁ and grow
      as sᵏ beyond;
    - "fourier": cos 2πks and sin 2πks, k = 1 … K, which make θ periodic: θ(t₀) = θ(t₁).

    θ₀ are the parameters of the modified field. The coefficients c_k are initialised to zero, so that the initial field
    is the original one. The number of parameters is multiplied by 1 + K or 1 + 2K.

    Source: Massaroli et al. (2020), "Dissecting Neural ODEs" (Galërkin neural ODEs); Chebyshev's recurrence:
    Abramowitz & Stegun (1964), 22.7.4.

    Args:
        dynamics: The field f.
        degree: Degree K of the polynomials, or number K of frequencies.
        basis: "polynomial" or "fourier".
        t0: The time at which s = 0.
        t1: The time at which s = 1.

    Raises:
        SettingError: `degree` is not positive, `basis` is unknown, t0 equals t1, or the field has no trainable
            parameters or `Normed` ones.
    """

    def __init__(
        self,
        dynamics: of.Dynamics,
        degree: int = 3,
        basis: Literal["polynomial", "fourier"] = "polynomial",
        t0: float = 0.0,
        t1: float = 1.0,
    ) -> None:
        of.check_least(self, 1, degree=degree)
        if t0 == t1:
            raise of.SettingError(f"Galerkin: t0 and t1 must differ; both are {t0}")
        super().__init__(dynamics)
        self.degree, self.t0, self.t1 = degree, t0, t1
        self.basis = _polynomial if basis == "polynomial" else _fourier
        self.shift = Shift.over(dynamics, "Galerkin")
        like = next(param for param in dynamics.parameters() if param.requires_grad)
        terms = degree if basis == "polynomial" else 2 * degree
        self.coefficients = nn.Parameter(like.new_zeros(terms, self.shift.size))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """As of the modified field."""
        values = self.basis((t - self.t0) / (self.t1 - self.t0), self.degree)
        shift = (values.to(self.coefficients)[..., None] * self.coefficients).sum(-2)
        return self.shift.call(self.dynamics, shift, t, y)


def _polynomial(s: Tensor, degree: int) -> Tensor:
    """(…, K) at s, (…): T_k(x) at x = 2s − 1, k = 1 … K, by T_{k+1} = 2x T_k − T_{k−1}."""
    x = 2 * s - 1
    values = [torch.ones_like(x), x]
    for _ in range(degree - 1):
        values.append(2 * x * values[-1] - values[-2])
    return torch.stack(values[1:], dim=-1)


def _fourier(s: Tensor, degree: int) -> Tensor:
    """(…, 2K) at s, (…): cos 2πks, k = 1 … K, then sin 2πks."""
    angles = 2 * math.pi * s[..., None] * torch.arange(1, degree + 1, device=s.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
