"""The Euler–Maruyama method."""

from torch import Tensor

import odeflow as of


class EulerMaruyamaStages(of.StochasticStages):
    """A step y₁ = y + f h + g ΔW."""

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.begin(t, h, y)
        f, g = self.values(t, y, first=True)
        return self.finish(y.add(f, alpha=h).add_(self.product(g, self.increment(t, h))))


class EulerMaruyama(of.StochasticSolver):
    """The Euler–Maruyama method for equations in the sense of Itô, with any noise: the cheapest step.

    Source: Maruyama (1955), Rend. Circ. Mat. Palermo 4, 48–90.
    """

    order = 1
    steps = EulerMaruyamaStages
    strong = {"diagonal": 0.5, "scalar": 0.5, "additive": 1.0, "general": 0.5}  # noqa: RUF012
    calculi = ("ito",)
