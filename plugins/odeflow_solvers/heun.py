"""Heun's method of order 2, the explicit trapezoidal rule."""

import odeflow as of


class Heun(of.RungeKutta):
    """Heun's method, order 2, the explicit trapezoid: y₁ = y + h/2 (k₁ + f(t + h, y + h k₁)), k₁ = f(t, y).

    Source: Heun (1900), Z. Math. Phys. 45, 23–38.
    """

    tableau = of.Tableau(order=2, c=(0, 1), a=((), (1,)), b=(1 / 2, 1 / 2))
