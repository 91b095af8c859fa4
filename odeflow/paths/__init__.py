"""Paths: functions of time, such as the external inputs u(t) of a vector field."""

from odeflow.paths.constant import Constant
from odeflow.paths.function import Function
from odeflow.paths.hermite import Hermite
from odeflow.paths.linear import Linear
from odeflow.paths.natural_cubic import NaturalCubic
from odeflow.paths.path import Path
from odeflow.paths.polynomial import PiecewisePolynomial
from odeflow.paths.rectilinear import Rectilinear

__all__ = ["Constant", "Function", "Hermite", "Linear", "NaturalCubic", "Path", "PiecewisePolynomial", "Rectilinear"]
