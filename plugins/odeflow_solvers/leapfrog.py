"""The leapfrog method."""

import odeflow as of


class Leapfrog(of.Symplectic):
    """Leapfrog (Störmer–Verlet, velocity form), order 2: symplectic and time-reversible.

    Source: Verlet (1967), Phys. Rev. 159, 98–103; Hairer, Lubich & Wanner (2003), Acta Numerica 12, 399–450.
    """

    order = 2
    weights = (1.0,)
