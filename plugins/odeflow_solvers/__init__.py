"""odeflow's solvers, one file each."""

from odeflow_solvers.adams_bashforth import AdamsBashforth as AdamsBashforth
from odeflow_solvers.adams_bashforth_moulton import AdamsBashforthMoulton as AdamsBashforthMoulton
from odeflow_solvers.bosh3 import Bosh3 as Bosh3
from odeflow_solvers.cash_karp45 import CashKarp45 as CashKarp45
from odeflow_solvers.dopri5 import Dopri5 as Dopri5
from odeflow_solvers.dopri8 import Dopri8 as Dopri8
from odeflow_solvers.euler import Euler as Euler
from odeflow_solvers.fehlberg45 import Fehlberg45 as Fehlberg45
from odeflow_solvers.heun import Heun as Heun
from odeflow_solvers.heun_euler import HeunEuler as HeunEuler
from odeflow_solvers.implicit_euler import ImplicitEuler as ImplicitEuler
from odeflow_solvers.implicit_midpoint import ImplicitMidpoint as ImplicitMidpoint
from odeflow_solvers.kutta3 import Kutta3 as Kutta3
from odeflow_solvers.kvaerno3 import Kvaerno3 as Kvaerno3
from odeflow_solvers.kvaerno5 import Kvaerno5 as Kvaerno5
from odeflow_solvers.leapfrog import Leapfrog as Leapfrog
from odeflow_solvers.midpoint import Midpoint as Midpoint
from odeflow_solvers.ralston import Ralston as Ralston
from odeflow_solvers.rk4 import RK4 as RK4
from odeflow_solvers.rk38 import RK38 as RK38
from odeflow_solvers.rodas4 import Rodas4 as Rodas4
from odeflow_solvers.torchdiffeq import TorchDiffEq as TorchDiffEq
from odeflow_solvers.trapezoid import Trapezoid as Trapezoid
from odeflow_solvers.tsit5 import Tsit5 as Tsit5
from odeflow_solvers.yoshida4 import Yoshida4 as Yoshida4
