"""Kutta's method of order 3."""

import odeflow as of


class Kutta3(of.RungeKutta):
    """Kutta's method, order 3, three evaluations per step. It is Simpson's rule if f depends on t only.

    Source: Kutta (1901), Z. Math. Phys. 46, 435–453.
    """

    tableau = of.Tableau(order=3, c=(0, 1 / 2, 1), a=((), (1 / 2,), (-1, 2)), b=(1 / 6, 2 / 3, 1 / 6))
