"""Paths: functions of time, such as the external inputs u(t) of a vector field and Brownian motion."""

from odeflow.paths.brownian import Brownian as Brownian
from odeflow.paths.brownian_grid import BrownianGrid as BrownianGrid
from odeflow.paths.brownian_tree import BrownianTree as BrownianTree
from odeflow.paths.constant import Constant as Constant
from odeflow.paths.derivative import Derivative as Derivative
from odeflow.paths.function import Function as Function
from odeflow.paths.hermite import Hermite as Hermite
from odeflow.paths.joined import Joined as Joined
from odeflow.paths.linear import Linear as Linear
from odeflow.paths.natural_cubic import NaturalCubic as NaturalCubic
from odeflow.paths.path import Path as Path
from odeflow.paths.polynomial import Outside as Outside
from odeflow.paths.polynomial import PiecewisePolynomial as PiecewisePolynomial
from odeflow.paths.rectilinear import Rectilinear as Rectilinear
from odeflow.paths.repeated import Repeated as Repeated
