"""Kværnø's method of order 5(4)."""

import odeflow as of

GAMMA = 0.26


class Kvaerno5(of.ImplicitRungeKutta):
    """Kværnø 5(4): seven stages, the first explicit; stiffly accurate and L-stable, its embedded solution A-stable.

    Source: Kværnø (2004), "Singly diagonally implicit Runge–Kutta methods with an explicit first stage", BIT 44,
    489–502, method ESDIRK 5/4b.
    """

    tableau = of.Tableau(
        order=5,
        c=(0, 0.52, 1.230333209967908, 0.8957659843500759, 0.43639360985864756, 1, 1),
        a=(
            (),
            (GAMMA, GAMMA),
            (0.13, 0.84033320996790809, GAMMA),
            (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, GAMMA),
            (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998, GAMMA),
            (0.13855640231268224, 0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, GAMMA),
            (
                0.13659751177640291,
                0,
                -0.05496908796538376,
                -0.04118626728321046,
                0.62993304899016403,
                0.06962479448202728,
                GAMMA,
            ),
        ),
        b=(
            0.13659751177640291,
            0,
            -0.05496908796538376,
            -0.04118626728321046,
            0.62993304899016403,
            0.06962479448202728,
            GAMMA,
        ),
        b_embedded=(0.13855640231268224, 0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, GAMMA, 0),
        embedded_order=4,
        implicit=True,
    )
