"""Ralston's method of order 2."""

import odeflow as of


class Ralston(of.RungeKutta):
    """Ralston's method, order 2: the two-stage method with the smallest error bound.

    Source: Ralston (1962), "Runge–Kutta methods with minimum error bounds", Math. Comp. 16, 431–437.
    """

    tableau = of.Tableau(order=2, c=(0, 2 / 3), a=((), (2 / 3,)), b=(1 / 4, 3 / 4))
