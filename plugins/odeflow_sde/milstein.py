"""Milstein's method."""

import torch
from torch import Tensor

import odeflow as of


class MilsteinStages(of.StochasticStages):
    """A step y₁ = y + f h + g ΔW + ½ (∂g/∂y g) (ΔW² − h), without h in the sense of Stratonovich."""

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.begin(t, h, y)
        dw, equation = self.increment(t, h), self.equation
        square = dw.square() - h if equation.calculus == "ito" else dw.square()
        if equation.noise == "additive":
            noise = self.product(self.diffuse(t, y), dw)
        elif equation.noise == "scalar":
            direction = self.product(self.diffuse(t, y), torch.ones_like(dw))
            g, change = self.diffuse_along(t, y, direction)
            noise = self.product(g, dw).add_(self.product(change, square), alpha=0.5)
        else:  # the Jacobian of g is diagonal: its product with ones has all its entries
            ones = torch.ones_like(dw)
            g, change = self.diffuse_along(t, y, self.product(ones, ones))
            noise = self.product(g, dw).add_(self.product(g * change, square), alpha=0.5)
        return self.finish(y.add(self.first_slope(t, y), alpha=h).add_(noise))


class Milstein(of.StochasticSolver):
    """Milstein's method for diagonal or scalar noise, in the sense of Itô or of Stratonovich.

    Its strong order is 1, for the derivative of the diffusion in one direction per step. A diagonal diffusion must
    have a diagonal Jacobian; others are rejected.

    Source: Milstein (1974), Theory Probab. Appl. 19, 557–562; Kloeden & Platen (1992), section 10.3.
    """

    order = 1
    steps = MilsteinStages
    strong = {"diagonal": 1.0, "scalar": 1.0, "additive": 1.0}  # noqa: RUF012
    calculi = ("ito", "stratonovich")
    commuting = True
