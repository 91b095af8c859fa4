"""Cash and Karp's pair of orders 5 and 4."""

import odeflow as of


class CashKarp45(of.RungeKutta):
    """Cash–Karp 5(4), six stages. The solution of order 5 is advanced; that of order 4 estimates the error.

    The embedded solutions of orders 1 to 3, with which the authors detect discontinuities, are not used here.

    Source: Cash & Karp (1990), "A variable order Runge–Kutta method for initial value problems with rapidly varying
    right-hand sides", ACM Trans. Math. Softw. 16, 201–222.
    """

    tableau = of.Tableau(
        order=5,
        c=(0, 1 / 5, 3 / 10, 3 / 5, 1, 7 / 8),
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (3 / 10, -9 / 10, 6 / 5),
            (-11 / 54, 5 / 2, -70 / 27, 35 / 27),
            (1631 / 55296, 175 / 512, 575 / 13824, 44275 / 110592, 253 / 4096),
        ),
        b=(37 / 378, 0, 250 / 621, 125 / 594, 0, 512 / 1771),
        b_embedded=(2825 / 27648, 0, 18575 / 48384, 13525 / 55296, 277 / 14336, 1 / 4),
        embedded_order=4,
    )
