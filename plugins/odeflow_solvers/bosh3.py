"""Bogacki and Shampine's method of order 3(2), for loose tolerances."""

import odeflow as of


class Bosh3(of.RungeKutta):
    """Bogacki–Shampine 3(2): four stages, FSAL.

    Source: Bogacki & Shampine (1989), "A 3(2) pair of Runge–Kutta formulas", Appl. Math. Lett. 2, 321–325.
    """

    tableau = of.Tableau(
        order=3,
        c=(0, 1 / 2, 3 / 4, 1),
        a=((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        b=(2 / 9, 1 / 3, 4 / 9, 0),
        b_embedded=(7 / 24, 1 / 4, 1 / 3, 1 / 8),
        embedded_order=2,
    )
