"""ReversibleHeunStages: the steps of the reversible Heun method, and their inverse."""

import torch
from torch import Tensor

from odeflow.engine.methods.stochastic import StochasticStages

Value = tuple[Tensor, Tensor]
"""(f, g) at a node."""


class ReversibleHeunStages(StochasticStages):
    """A step of the pair (y, z), which starts with z = y.

        z₁ = 2 y − z + f(t, z) h + g(t, z) ΔW
        y₁ = y + (f(t, z) + f(t₁, z₁)) h/2 + (g(t, z) + g(t₁, z₁)) ΔW/2

    The same formulas with −h and −ΔW lead back from (y₁, z₁) to (y, z). z is carried from step to step.
    """

    z: Tensor | None = None
    value: Value | None = None  # at z

    def carry(self) -> tuple[Tensor, ...]:
        return (self.z1,) if self.last is None else (self.z1, self.last)

    def restore(self, carried: tuple[Tensor, ...]) -> None:
        self.carried = carried
        self.z, self.value = (carried[0] if carried else None), None
        self.first, self.last = (carried[1] if len(carried) > 1 else None), None

    def advance(self) -> None:
        value = self.value1
        self.restore(self.carry())
        self.value = value

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        self.begin(t, h, y)
        z = y if self.z is None else self.z
        f, g = self.value or self.values(t, z)
        dw = self.increment(t, h)
        self.z1 = self.reflected(y, z, f, h, self.product(g, dw))
        self.value1 = f1, g1 = self.values(t + h, self.z1)
        return self.finish(y.add(f + f1, alpha=h / 2).add_(self.product(g + g1, dw / 2)))

    @staticmethod
    def reflected(y: Tensor, z: Tensor, f: Tensor, h: float, noise: Tensor) -> Tensor:
        """2 y − z + f h + g ΔW."""
        return torch.sub(2 * y, z).add_(f, alpha=h).add_(noise)

    def back(self, t: float, h: float, y1: Tensor, z1: Tensor) -> tuple[Tensor, Tensor]:
        """(y, z) at the start t of the step of size h that ends at (y₁, z₁)."""
        dw = self.increment(t, h)
        f1, g1 = self.values(t + h, z1)
        z = self.reflected(y1, z1, f1, -h, -self.product(g1, dw))
        f, g = self.values(t, z)
        return y1.sub(f + f1, alpha=h / 2).sub_(self.product(g + g1, dw / 2)), z
