"""The implicit midpoint rule."""

import odeflow as of


class ImplicitMidpoint(of.ImplicitRungeKutta):
    """Implicit midpoint rule, order 2: A-stable and symplectic; conserves quadratic invariants.

    Source: Hairer, Lubich & Wanner, Geometric Numerical Integration, II.1.
    """

    tableau = of.Tableau(order=2, c=(1 / 2,), a=((1 / 2,),), b=(1,), implicit=True)
