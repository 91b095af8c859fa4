"""ShARK, for additive noise."""

from torch import Tensor

import odeflow as of


class ShARKStages(of.StochasticStages):
    """Two stages from the state shifted by g H.

    With y′ = y + g H, f₁ = f(t, y′) and f₂ = f(t + 5/6 h, y′ + 5/6 (f₁ h + g ΔW)): y₁ = y + (2 f₁ + 3 f₂) h/5 + ∫ g dW,
    where g(t) is linear in time over the step.
    """

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.begin(t, h, y)
        w, area = self.increment_and_area(t, h)
        g0, g1 = self.diffuse(t, y), self.diffuse(t + h, y)
        shifted, whole = y + self.product(g0, area), self.product(g0, w)
        f1 = self.evaluate(t, shifted)
        f2 = self.evaluate(t + 5 / 6 * h, shifted.add(f1, alpha=5 / 6 * h).add_(whole, alpha=5 / 6))
        self.estimate = lambda: (f2 - f1) * (0.6 * h)
        noise = whole + self.product(g1 - g0, w / 2 - area)
        return self.finish(y.add(2 * f1 + 3 * f2, alpha=h / 5).add_(noise))


class ShARK(of.StochasticSolver):
    """The shifted Runge–Kutta method of strong order 1.5 for additive noise; its difference from Euler's is the error.

    Source: Foster, dos Reis & Strange (2024), "High order splitting methods for SDEs satisfying a commutativity
    condition", SIAM J. Numer. Anal. 62, eq. 6.1.
    """

    order = 2
    error_order = 1
    steps = ShARKStages
    strong = {"additive": 1.5}  # noqa: RUF012
    calculi = ("ito", "stratonovich")
    error_power = 1.5
