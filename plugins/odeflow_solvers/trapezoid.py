"""The trapezoidal rule."""

import odeflow as of


class Trapezoid(of.ImplicitRungeKutta):
    """Trapezoidal rule (Crank–Nicolson in time), order 2: A-stable but not L-stable: fast decays become oscillations.

    Source: Crank & Nicolson (1947), Proc. Camb. Phil. Soc. 43, 50–67; Hairer & Wanner II, IV.3.
    """

    tableau = of.Tableau(order=2, c=(0, 1), a=((), (1 / 2, 1 / 2)), b=(1 / 2, 1 / 2), implicit=True)
