"""Kværnø's method of order 3(2)."""

import odeflow as of

GAMMA = 0.4358665215084590  # the middle root of 1/6 − 3γ/2 + 3γ² − γ³


class Kvaerno3(of.ImplicitRungeKutta):
    """Kværnø 3(2): four stages, the first explicit; stiffly accurate and L-stable, as is its embedded solution.

    Source: Kværnø (2004), "Singly diagonally implicit Runge–Kutta methods with an explicit first stage", BIT 44,
    489–502, method ESDIRK 3/2a, whose coefficients are given there as functions of γ.
    """

    tableau = of.Tableau(
        order=3,
        c=(0, 2 * GAMMA, 1, 1),
        a=(
            (),
            (GAMMA, GAMMA),
            (0.490563388419108, 0.073570090080892, GAMMA),
            (0.308809969973036, 1.490563388254106, -1.235239879727145, GAMMA),
        ),
        b=(0.308809969973036, 1.490563388254106, -1.235239879727145, GAMMA),
        b_embedded=(0.490563388419108, 0.073570090080892, GAMMA, 0),
        embedded_order=2,
        implicit=True,
    )
