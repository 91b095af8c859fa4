"""Euler's method."""

import odeflow as of


class Euler(of.RungeKutta):
    """Explicit Euler, order 1: y₁ = y + h f(t, y). With separate parameters for each step it is a ResNet.

    Source: Euler (1768), Institutionum calculi integralis I, §650.
    """

    tableau = of.Tableau(order=1, c=(0,), a=((),), b=(1,))
