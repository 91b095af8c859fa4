"""SPaRK, for any noise."""

from torch import Tensor

import odeflow as of

OUTER, INNER = (3 - 3**0.5) / 6, 3**-0.5


class SPaRKStages(of.StochasticStages):
    """Three stages at t, t + h/2 and t + h along a path of three pieces with the increment and the area of W."""

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.begin(t, h, y)
        w, area = self.increment_and_area(t, h)
        f1, g1 = self.values(t, y, first=True)
        middle = y.add(f1, alpha=h / 2).add_(self.product(g1, w / 2 + 3**0.5 * area))
        f2, g2 = self.values(t + h / 2, middle)
        ahead = y.add(f2, alpha=h).add_(self.product(g2, w))
        f3, g3 = self.values(t + h, ahead)

        def combined(outer: float) -> Tensor:
            drift = (f1 + f3).mul_(outer * h).add_(f2, alpha=INNER * h)
            noise = self.product(g1, outer * w + area) + self.product(g3, outer * w - area)
            return drift.add_(noise).add_(self.product(g2, INNER * w))

        self.estimate = lambda: combined(OUTER - 0.5)
        return self.finish(y + combined(OUTER))


class SPaRK(of.StochasticSolver):
    """The splitting path Runge–Kutta method for equations in the sense of Stratonovich, with any noise and its error.

    Its strong order is 1.5 with additive noise, 1 with commuting noise and 0.5 in general.

    Source: Foster (2023), "On the convergence of adaptive approximations for stochastic differential equations",
    definition 1.6.
    """

    order = 2
    error_order = 2
    steps = SPaRKStages
    strong = {"diagonal": 1.0, "scalar": 1.0, "additive": 1.5, "general": 0.5}  # noqa: RUF012
    calculi = ("stratonovich",)
    error_power = 1.5
