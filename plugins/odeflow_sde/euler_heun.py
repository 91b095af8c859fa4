"""The Euler–Heun method."""

from torch import Tensor

import odeflow as of


class EulerHeunStages(of.StochasticStages):
    """A step y₁ = y + f h + ½ (g(t, y) + g(t₁, y + g ΔW)) ΔW."""

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.begin(t, h, y)
        dw, g = self.increment(t, h), self.diffuse(t, y)
        ahead = self.diffuse(t + h, y + self.product(g, dw))
        noise = self.product(g + ahead, dw / 2)
        return self.finish(y.add(self.first_slope(t, y), alpha=h).add_(noise))


class EulerHeun(of.StochasticSolver):
    """The Euler–Heun method for equations in the sense of Stratonovich, with any noise.

    A step takes one value of the drift and two of the diffusion.

    Source: Kloeden & Platen (1992), section 11.
    """

    order = 1
    steps = EulerHeunStages
    strong = {"diagonal": 1.0, "scalar": 1.0, "additive": 1.0, "general": 0.5}  # noqa: RUF012
    calculi = ("stratonovich",)
