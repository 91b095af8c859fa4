"""SRA1, for additive noise."""

from torch import Tensor

import odeflow as of


class SRA1Stages(of.StochasticStages):
    """Two stages, of which the second sees K = ∫ (W − W(t)) ds / h.

    With f₂ = f(t + ¾h, y + ¾ f₁ h + 3/2 g₁ K), g₀ = g(t) and g₁ = g(t + h):

        y₁ = y + (f₁ + 2 f₂) h/3 + g₁ ΔW + (g₀ − g₁) K
    """

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.begin(t, h, y)
        w, area = self.increment_and_area(t, h)
        mean = w / 2 + area
        g0, g1, f1 = self.diffuse(t, y), self.diffuse(t + h, y), self.first_slope(t, y)
        ahead = y.add(f1, alpha=0.75 * h).add_(self.product(g1, 1.5 * mean))
        f2 = self.evaluate(t + 0.75 * h, ahead)
        self.estimate = lambda: (f2 - f1) * (2 / 3 * h)
        noise = self.product(g1, w - mean).add_(self.product(g0, mean))
        return self.finish(y.add(f1 + 2 * f2, alpha=h / 3).add_(noise))


class SRA1(of.StochasticSolver):
    """Rößler's method of strong order 1.5 for additive noise; its difference from Euler's drift is the error.

    Source: Rößler (2010), "Runge–Kutta methods for the strong approximation of solutions of stochastic differential
    equations", SIAM J. Numer. Anal. 48, 922–952, table 6.3.
    """

    order = 2
    error_order = 1
    steps = SRA1Stages
    strong = {"additive": 1.5}  # noqa: RUF012
    calculi = ("ito", "stratonovich")
    error_power = 1.5
