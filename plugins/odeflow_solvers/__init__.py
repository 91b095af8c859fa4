"""The solvers that come with odeflow, one file each."""

from odeflow_solvers.dopri5 import Dopri5
from odeflow_solvers.euler import Euler
from odeflow_solvers.midpoint import Midpoint
from odeflow_solvers.rk4 import RK4
from odeflow_solvers.torchdiffeq import TorchDiffEq

__all__ = ["RK4", "Dopri5", "Euler", "Midpoint", "TorchDiffEq"]
