"""The Adams–Bashforth methods."""

import odeflow as of
from odeflow_solvers.dopri8 import Dopri8
from odeflow_solvers.rk4 import RK4


class AdamsBashforth(of.Multistep):
    """Adams–Bashforth, order 1 to 8: explicit, one evaluation per step at any order.

    Its first steps are those of `RK4`, for orders above 5 of `Dopri8`. The higher the order, the smaller the step at
    which it becomes unstable.

    Source: Hairer, Nørsett & Wanner, III.1; the coefficients are computed.
    """

    order = 4
    corrected = False
    starters = (RK4.tableau, Dopri8.tableau)
