"""Euler's implicit method."""

import odeflow as of


class ImplicitEuler(of.ImplicitRungeKutta):
    """Implicit (backward) Euler, order 1: L-stable, so that fast decays are damped at any step size.

    Source: Hairer & Wanner, Solving Ordinary Differential Equations II, IV.3.
    """

    tableau = of.Tableau(order=1, c=(1,), a=((1,),), b=(1,), implicit=True)
