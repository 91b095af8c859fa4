"""Coupling: which point of the source goes to which of the data."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

import odeflow as of


@dataclass(frozen=True)
class Pairs:
    """Points of the source and of the data, joined by row.

    Attributes:
        x0: (B, *state), points of the source.
        x1: (B, *state), data.
        condition: (B, c), the conditions of the data; None if there are none.
    """

    x0: Tensor
    x1: Tensor
    condition: Tensor | None = None


class Coupling(of.Plugin, ABC):
    """Joins the points of a batch. The flow keeps its ends whatever the coupling, but its trajectories depend on it.

    Each process of a distributed run couples its own batch. Of couplings that compare points, the result therefore
    depends on the size of the batch of one process, not on that of all.
    """

    kind = "coupling"

    @abstractmethod
    def pairs(self, x0: Tensor, x1: Tensor, condition: Tensor | None = None) -> Pairs:
        """The pairs of a batch.

        Args:
            x0: (B, *state), drawn from the source.
            x1: (B, *state), data.
            condition: (B, c), the conditions of the data, if any.
        """


def squared_distances(x0: Tensor, x1: Tensor) -> Tensor:
    """(N, M), |x₀ᵢ − x₁ⱼ|² in float64, on the CPU.

    Args:
        x0: (N, *state).
        x1: (M, *state).
    """
    first, second = (x.detach().flatten(1).double().cpu() for x in (x0, x1))
    square = first.square().sum(1)[:, None] + second.square().sum(1) - 2 * first @ second.T
    return square.clamp_min(0)
