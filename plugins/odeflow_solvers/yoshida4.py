"""Yoshida's symplectic method of order 4."""

import odeflow as of

OUTER = 1 / (2 - 2 ** (1 / 3))


class Yoshida4(of.Symplectic):
    """Yoshida's triple jump, order 4: three leapfrog steps, the middle one backward in time.

    Source: Yoshida (1990), "Construction of higher order symplectic integrators", Phys. Lett. A 150, 262–268,
    equation 2.12.
    """

    order = 4
    weights = (OUTER, 1 - 2 * OUTER, OUTER)
