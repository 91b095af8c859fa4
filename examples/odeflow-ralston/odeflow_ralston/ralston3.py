"""Ralston's method of order 3."""

import odeflow as of


class Ralston3(of.RungeKutta):
    """Ralston's method, order 3: of all with three stages, the one whose error has the least bound.

    Source: Ralston (1962), "Runge–Kutta methods with minimum error bounds", Math. Comp. 16, 431–437.
    """

    tableau = of.Tableau(order=3, c=(0, 1 / 2, 3 / 4), a=((), (1 / 2,), (0, 3 / 4)), b=(2 / 9, 1 / 3, 4 / 9))
