"""Kutta's 3/8 rule."""

import odeflow as of


class RK38(of.RungeKutta):
    """The 3/8 rule, order 4, four evaluations per step. Its error coefficients are slightly below those of `RK4`.

    Source: Kutta (1901), Z. Math. Phys. 46, 435–453; Hairer, Nørsett & Wanner, table II.1.2 (right).
    """

    tableau = of.Tableau(
        order=4,
        c=(0, 1 / 3, 2 / 3, 1),
        a=((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)),
        b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
    )
