"""Interpolations: how the covariates of series become inputs at all times."""

from abc import ABC, abstractmethod

from torch import Tensor

import odeflow as of
from odeflow.paths import Outside


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


class Hermite(Interpolation):
    """Cubics with backward differences, smooth; see `odeflow.paths.Hermite`.

    Args:
        outside: The value outside the known times: "hold", the nearest one; "extrapolate", the polynomial.
    """

    def __init__(self, outside: Outside = "hold") -> None:
        self.outside: Outside = outside

    def path(self, t: Tensor, x: Tensor) -> of.Path:
        return of.paths.Hermite(t, x, outside=self.outside)


class NaturalCubic(Interpolation):
    """The natural cubic spline, which depends on all values, later ones included; see `odeflow.paths.NaturalCubic`.

    Args:
        outside: As in `Hermite`.
    """

    def __init__(self, outside: Outside = "hold") -> None:
        self.outside: Outside = outside

    def path(self, t: Tensor, x: Tensor) -> of.Path:
        return of.paths.NaturalCubic(t, x, outside=self.outside)


class Linear(Interpolation):
    """Straight lines; see `odeflow.paths.Linear`. The solver stops at every time of every series of a batch.

    Args:
        outside: As in `Hermite`.
    """

    def __init__(self, outside: Outside = "hold") -> None:
        self.outside: Outside = outside

    def path(self, t: Tensor, x: Tensor) -> of.Path:
        return of.paths.Linear(t, x, outside=self.outside)


class Rectilinear(Interpolation):
    """The previous value held, for inputs that are switched; see `odeflow.paths.Rectilinear`.

    The solver stops at every time of every series of a batch.
    """

    def path(self, t: Tensor, x: Tensor) -> of.Path:
        return of.paths.Rectilinear(t, x)
