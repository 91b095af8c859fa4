"""odeflow's solvers, one file each."""

from odeflow_solvers.adams_bashforth import AdamsBashforth
from odeflow_solvers.adams_bashforth_moulton import AdamsBashforthMoulton
from odeflow_solvers.bosh3 import Bosh3
from odeflow_solvers.cash_karp45 import CashKarp45
from odeflow_solvers.dopri5 import Dopri5
from odeflow_solvers.dopri8 import Dopri8
from odeflow_solvers.euler import Euler
from odeflow_solvers.fehlberg45 import Fehlberg45
from odeflow_solvers.heun import Heun
from odeflow_solvers.heun_euler import HeunEuler
from odeflow_solvers.implicit_euler import ImplicitEuler
from odeflow_solvers.implicit_midpoint import ImplicitMidpoint
from odeflow_solvers.kutta3 import Kutta3
from odeflow_solvers.kvaerno3 import Kvaerno3
from odeflow_solvers.kvaerno5 import Kvaerno5
from odeflow_solvers.leapfrog import Leapfrog
from odeflow_solvers.midpoint import Midpoint
from odeflow_solvers.ralston import Ralston
from odeflow_solvers.rk4 import RK4
from odeflow_solvers.rk38 import RK38
from odeflow_solvers.rodas4 import Rodas4
from odeflow_solvers.torchdiffeq import TorchDiffEq
from odeflow_solvers.trapezoid import Trapezoid
from odeflow_solvers.tsit5 import Tsit5
from odeflow_solvers.yoshida4 import Yoshida4

__all__ = [
    "RK4",
    "RK38",
    "AdamsBashforth",
    "AdamsBashforthMoulton",
    "Bosh3",
    "CashKarp45",
    "Dopri5",
    "Dopri8",
    "Euler",
    "Fehlberg45",
    "Heun",
    "HeunEuler",
    "ImplicitEuler",
    "ImplicitMidpoint",
    "Kutta3",
    "Kvaerno3",
    "Kvaerno5",
    "Leapfrog",
    "Midpoint",
    "Ralston",
    "Rodas4",
    "TorchDiffEq",
    "Trapezoid",
    "Tsit5",
    "Yoshida4",
]
