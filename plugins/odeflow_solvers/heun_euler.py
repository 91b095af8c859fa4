"""Heun's method with embedded Euler: the smallest pair with error control."""

import odeflow as of


class HeunEuler(of.RungeKutta):
    """Heun–Euler 2(1): Heun's solution is advanced, and its difference from Euler's estimates the error.

    Source: Heun (1900), Z. Math. Phys. 45, 23–38; Euler (1768), Institutionum calculi integralis I, §650.
    """

    tableau = of.Tableau(order=2, c=(0, 1), a=((), (1,)), b=(1 / 2, 1 / 2), b_embedded=(1, 0), embedded_order=1)
