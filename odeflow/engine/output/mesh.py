"""Mesh: the steps of a solve whose polynomials are rows of its solution."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from odeflow.engine.output.watch import Watch


@lru_cache(maxsize=32)
def nodes(degree: int) -> tuple[float, ...]:
    """The points θ of a step, 0 and 1 among them, whose values determine a polynomial of this degree: Chebyshev's."""
    if degree == 1:
        return 0.0, 1.0
    return tuple((1 - math.cos(math.pi * number / degree)) / 2 for number in range(degree + 1))


@lru_cache(maxsize=32)
def powers_to_values(degree: int) -> Tensor:
    """(degree + 1, degree + 1): takes 1, θ, θ², … to the weights of the values at the nodes."""
    with torch.inference_mode(False):
        points = torch.tensor(nodes(degree), dtype=torch.float64)
        return torch.linalg.inv(points[:, None] ** torch.arange(degree + 1))


def by_clock(y: Tensor, clocks: int) -> Tensor:
    """(m, *state) ↦ (m, C, n), states with what belongs to each of C clocks apart."""
    return y.reshape(len(y), clocks, y.shape[1:].numel() // clocks)


@dataclass(frozen=True)
class Steps:
    """Steps whose polynomials are rows of a solution, of C clocks: one of all samples, or one for each.

    Every gradient that carries rows thereby carries the dense output.

    Attributes:
        asked: The rows at the requested times.
        rows: (S, d + 1), those of the n-th step of every clock: its polynomial, of degree d, at the `nodes`.
        starts: (S, C), the times at which the steps start.
        ends: (S, C), the times at which they end; beyond the last step of a clock, another time than its start.
        count: (C,), number of steps of each clock.
        first: (C,), where the clocks started.
        last: (C,), where they have come to.
        per_sample: Whether each sample has a clock.
    """

    asked: list[int]
    rows: Tensor
    starts: Tensor
    ends: Tensor
    count: Tensor
    first: Tensor
    last: Tensor
    per_sample: bool

    @property
    def degree(self) -> int:
        """Degree of the polynomials."""
        return self.rows.shape[1] - 1

    @property
    def clocks(self) -> int:
        """Number C of the clocks."""
        return len(self.first)

    @property
    def sign(self) -> Tensor:
        """(C,), the direction of each clock, 1 or −1."""
        return (self.last - self.first).sign()

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Steps":
        """The same, with times that `move` lets follow whatever they depend on."""
        return replace(self, starts=move(self.starts), ends=move(self.ends))


@dataclass
class Mesh:
    """Asks the loop of a solve for its steps: for all of them, or those in which an event changes its sign.

    Attributes:
        dense: Whether all steps become rows.
        watch: Sees the end of every step; None if there are no events.
        steps: The steps, which the loop lays when the solve has come to its end.
    """

    dense: bool
    watch: Watch | None = None
    steps: Steps | None = None
