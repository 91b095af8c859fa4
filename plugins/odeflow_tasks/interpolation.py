"""Interpolations: how the covariates of series become inputs at all times."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

import odeflow as of
from odeflow.paths import Outside, PiecewisePolynomial


class Interpolation(of.Plugin, ABC):
    """Makes the path of a batch of covariates."""

    kind = "interpolation"

    @abstractmethod
    def path(self, t: Tensor, x: Tensor) -> of.Path:
        """The path.

        Args:
            t: (B, T), per-sample times.
            x: (B, T, c), the values; nan where unknown.
        """


class Polynomial(Interpolation, ABC):
    """An interpolation by polynomials between the known values.

    Args:
        outside: The value outside the known times: "hold", the nearest one; "extrapolate", the polynomial.
    """

    paths: ClassVar[type[PiecewisePolynomial]]

    def __init__(self, outside: Outside = "hold") -> None:
        self.outside: Outside = outside

    def path(self, t: Tensor, x: Tensor) -> of.Path:
        return self.paths(t, x, outside=self.outside)


class Hermite(Polynomial):
    """Cubics with backward differences, smooth; see `odeflow.paths.Hermite`."""

    paths = of.paths.Hermite


class NaturalCubic(Polynomial):
    """The natural cubic spline, which depends on all values, later ones included; see `odeflow.paths.NaturalCubic`."""

    paths = of.paths.NaturalCubic


class Linear(Polynomial):
    """Straight lines; see `odeflow.paths.Linear`. The solver stops at every time of every series of a batch."""

    paths = of.paths.Linear


class Rectilinear(Interpolation):
    """The previous value held, for inputs that are switched; see `odeflow.paths.Rectilinear`.

    The solver stops at every time of every series of a batch.
    """

    def path(self, t: Tensor, x: Tensor) -> of.Path:
        return of.paths.Rectilinear(t, x)
