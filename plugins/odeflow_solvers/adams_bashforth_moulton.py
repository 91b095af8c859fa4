"""The Adams–Bashforth–Moulton methods."""

import odeflow as of
from odeflow_solvers.dopri8 import Dopri8
from odeflow_solvers.rk4 import RK4


class AdamsBashforthMoulton(of.Multistep):
    """Adams–Bashforth–Moulton, order 1 to 8: predict, evaluate, correct, evaluate (PECE); two evaluations per step.

    More accurate than `AdamsBashforth` of the same order, and stable for larger steps. Its first steps are those of
    `RK4`, for orders above 5 of `Dopri8`.

    Source: Hairer, Nørsett & Wanner, III.1; the coefficients are computed.
    """

    order = 4
    corrected = True
    starters = (RK4.tableau, Dopri8.tableau)
