"""Interpolant: a path of random points from the source to the data, whose mean velocity is a flow between them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

import odeflow as of


@dataclass(frozen=True)
class Coefficients:
    """a, b and γ of an interpolant and their derivatives in its time, each of the shape of the times."""

    a: Tensor
    b: Tensor
    gamma: Tensor
    da: Tensor
    db: Tensor
    dgamma: Tensor


class Interpolant(of.Plugin, ABC):
    """x_t = a(t) x₁ + b(t) x₀ + γ(t) z, from points x₀ of the source at t = 0 to data x₁ at t = 1, with z normal.

    The field u(t, x) = E[ẋ_t | x_t = x] carries the distribution of x₀ to that of x₁, and is what the least squares
    E‖u(t, x_t) − ẋ_t‖² find, without a solve.

    Source: Lipman et al. (2023), "Flow Matching for Generative Modeling"; Albergo, Boffi & Vanden-Eijnden (2023),
    "Stochastic Interpolants", for γ.

    Attributes:
        spread: Standard deviation of the normal source that the interpolant is made for; 1 for any source.
        span: The times between which training draws, inside which ẋ_t is finite.
        noisy: Whether γ is not zero.
    """

    kind = "interpolant"
    spread: float = 1.0
    span: ClassVar[tuple[float, float]] = (0.0, 1.0)
    noisy: bool = False

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """The coefficients and their derivatives.

        Args:
            t: (…), times in [0, 1].
        """

    def point(self, t: Tensor, x0: Tensor, x1: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x_t and ẋ_t, of the shape of x0.

        Args:
            t: (B,), in [0, 1].
            x0: (B, *state), of the source.
            x1: (B, *state), data.
            z: (B, *state), normal; needed by an interpolant that is `noisy`.
        """
        at = self.coefficients(t)
        x = along(at.a, x1) * x1 + along(at.b, x0) * x0
        velocity = along(at.da, x1) * x1 + along(at.db, x0) * x0
        if z is None:
            return x, velocity
        return x + along(at.gamma, z) * z, velocity + along(at.dgamma, z) * z


def along(t: Tensor, x: Tensor) -> Tensor:
    """Numbers () or (B,), one for each sample, laid along x (B, *state)."""
    return t.view(-1, *(1,) * (x.dim() - 1)) if t.dim() else t
