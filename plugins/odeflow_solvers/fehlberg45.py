"""Fehlberg's pair of orders 4 and 5."""

import odeflow as of


class Fehlberg45(of.RungeKutta):
    """Fehlberg's RKF4(5), six stages. The solution of order 5 is advanced; that of order 4 estimates the error.

    Fehlberg advanced the solution of order 4. Here, as in Shampine & Watts's RKF45 (1977), the other is advanced.

    Source: Fehlberg (1969), NASA TR R-315, table III ("RK4(5), formula 2"); Hairer, Nørsett & Wanner, table II.5.1.
    """

    tableau = of.Tableau(
        order=5,
        c=(0, 1 / 4, 3 / 8, 12 / 13, 1, 1 / 2),
        a=(
            (),
            (1 / 4,),
            (3 / 32, 9 / 32),
            (1932 / 2197, -7200 / 2197, 7296 / 2197),
            (439 / 216, -8, 3680 / 513, -845 / 4104),
            (-8 / 27, 2, -3544 / 2565, 1859 / 4104, -11 / 40),
        ),
        b=(16 / 135, 0, 6656 / 12825, 28561 / 56430, -9 / 50, 2 / 55),
        b_embedded=(25 / 216, 0, 1408 / 2565, 2197 / 4104, -1 / 5, 0),
        embedded_order=4,
    )
