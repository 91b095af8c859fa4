"""Sinkhorn: pairs drawn from the entropic optimal transport of a batch."""

import math

import torch
from torch import Tensor

import odeflow as of
from odeflow_matching.coupling import Coupling, Pairs, squared_distances


class Sinkhorn(Coupling):
    """Each point of the data with a source point drawn from the plan that minimises Σ πᵢⱼ |x₀ᵢ − x₁ⱼ|² − ε H(π).

    For ε → 0 it is the optimal transport, for ε → ∞ the independent coupling.

    Source: Cuturi (2013), "Sinkhorn Distances"; in logarithms: Peyré & Cuturi (2019), "Computational Optimal
    Transport", remark 4.23.

    Args:
        epsilon: ε, in the square of the data's units. `Bridge(σ)` needs 2σ².
        iterations: Number of updates of both potentials.

    Raises:
        SettingError: A number is not positive.
    """

    def __init__(self, epsilon: float = 1.0, iterations: int = 100) -> None:
        of.check_range(self, "(0, inf)", epsilon=epsilon)
        of.check_least(self, 1, iterations=iterations)
        self.epsilon, self.iterations = epsilon, iterations

    def pairs(self, x0: Tensor, x1: Tensor, condition: Tensor | None = None) -> Pairs:
        plan = self.plan(squared_distances(x0, x1))
        chosen = torch.multinomial(plan.T, 1)[:, 0]
        return Pairs(x0[chosen.to(x0.device)], x1, condition)

    def plan(self, cost: Tensor) -> Tensor:
        """(N, M), π, whose columns add up to 1/M exactly, and its rows to 1/N in the limit of many iterations.

        Args:
            cost: (N, M).
        """
        rows, columns = cost.shape
        log_kernel, f, g = -cost / self.epsilon, cost.new_zeros(rows, 1), cost.new_zeros(columns)
        for _ in range(self.iterations):
            f = -math.log(rows) - (log_kernel + g).logsumexp(1, keepdim=True)
            g = -math.log(columns) - (log_kernel + f).logsumexp(0)
        return (log_kernel + f + g).exp()
