"""The classical Runge–Kutta method."""

import odeflow as of


class RK4(of.RungeKutta):
    """Classical Runge–Kutta, order 4, four evaluations per step.

    Source: Kutta (1901), Z. Math. Phys. 46, 435–453; Hairer, Nørsett & Wanner, table II.1.2 (left).
    """

    tableau = of.Tableau(
        order=4,
        c=(0, 1 / 2, 1 / 2, 1),
        a=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    )
