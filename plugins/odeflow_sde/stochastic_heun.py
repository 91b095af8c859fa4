"""Heun's method for stochastic equations."""

from torch import Tensor

import odeflow as of


class StochasticHeunStages(of.StochasticStages):
    """A step y₁ = y + ½ (k + k₁), with k = f h + g ΔW at (t, y) and k₁ the same at (t₁, y + k)."""

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.begin(t, h, y)
        dw, (f, g) = self.increment(t, h), self.values(t, y, first=True)
        ahead = y.add(f, alpha=h).add_(self.product(g, dw))
        f1, g1 = self.values(t + h, ahead)
        self.estimate = lambda: (f1 - f) * (h / 2) + self.product(g1 - g, dw / 2)
        return self.finish(y.add(f + f1, alpha=h / 2).add_(self.product(g + g1, dw / 2)))


class StochasticHeun(of.StochasticSolver):
    """Heun's method for equations in the sense of Stratonovich, with any noise and an error estimate.

    The estimate is its difference from an Euler step.

    Source: Kloeden & Platen (1992), section 14.
    """

    order = 2
    error_order = 1
    steps = StochasticHeunStages
    strong = {"diagonal": 1.0, "scalar": 1.0, "additive": 1.0, "general": 0.5}  # noqa: RUF012
    calculi = ("stratonovich",)
