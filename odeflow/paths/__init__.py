"""Paths: functions of time, such as the external inputs u(t) of a vector field."""

from odeflow.paths.constant import Constant
from odeflow.paths.function import Function
from odeflow.paths.hermite import Hermite
from odeflow.paths.joined import Joined
from odeflow.paths.linear import Linear
from odeflow.paths.natural_cubic import NaturalCubic
from odeflow.paths.path import Path
from odeflow.paths.polynomial import Outside, PiecewisePolynomial
from odeflow.paths.rectilinear import Rectilinear
from odeflow.paths.repeated import Repeated

__all__ = [
    "Constant",
    "Function",
    "Hermite",
    "Joined",
    "Linear",
    "NaturalCubic",
    "Outside",
    "Path",
    "PiecewisePolynomial",
    "Rectilinear",
    "Repeated",
]
