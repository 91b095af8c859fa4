"""The explicit midpoint method."""

import odeflow as of


class Midpoint(of.RungeKutta):
    """Explicit midpoint, order 2: y₁ = y + h f(t + h/2, y + h/2 f(t, y)).

    Source: Runge (1895), Math. Ann. 46, 167–178.
    """

    tableau = of.Tableau(order=2, c=(0, 1 / 2), a=((), (1 / 2,)), b=(0, 1))
