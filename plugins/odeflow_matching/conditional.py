"""Conditional: optimal transport that leaves conditions alone."""

from torch import Tensor

import odeflow as of
from odeflow_matching.coupling import Coupling, Pairs, squared_distances
from odeflow_matching.minibatch_ot import assignment


class Conditional(Coupling):
    """The permutation π that minimises Σ |x₀_π(i) − x₁ᵢ|² + λ |c_π(i) − cᵢ|².

    Each point of the source has at first the condition of a random data point, and then goes to data of nearly the same
    one. So the source stays independent of the condition, which `MinibatchOT` violates, and trajectories are
    straighter than those of `Independent`.

    Source: Cheng & Schwing (2025), "The Curse of Conditions: Analyzing and Improving Optimal Transport for Conditional
    Flow-Based Generation" (C²OT).

    Args:
        weight: λ. The default keeps classes apart; for numbers a smaller one lets points of similar conditions change
            places. With 0 it is `MinibatchOT`, with ∞ `Independent` if conditions are all different.

    Raises:
        SettingError: λ is negative, or data have no conditions.
    """

    def __init__(self, weight: float = 1e6) -> None:
        of.check_least(self, 0, weight=weight)
        self.weight = weight

    def pairs(self, x0: Tensor, x1: Tensor, condition: Tensor | None = None) -> Pairs:
        if condition is None:
            raise of.SettingError(
                "Conditional couples data with conditions, of which there are none: set num_conditions, or use "
                "MinibatchOT"
            )
        cost = squared_distances(x1, x0) + self.weight * squared_distances(condition, condition)
        return Pairs(x0[assignment(cost).to(x0.device)], x1, condition)
