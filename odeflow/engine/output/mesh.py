"""Mesh: the steps of a solve whose polynomials are stored as rows of its solution."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from odeflow.engine.output.watch import Watch


@lru_cache(maxsize=32)
def nodes(degree: int) -> tuple[float, ...]:
    """The Chebyshev points θ of a step, including 0 and 1, that determine a polynomial of this degree."""
    return tuple((1 - math.cos(math.pi * number / degree)) / 2 for number in range(degree + 1))


@lru_cache(maxsize=32)
def _gaps(degree: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The nodes, (d + 1,), and the differences of each from the others, (d + 1, d + 1), inf from itself."""
    with torch.inference_mode(False):
        points = torch.tensor(nodes(degree), dtype=torch.float64, device=device)
        return points, (points[:, None] - points).fill_diagonal_(torch.inf)


def weights_at(theta: Tensor, degree: int) -> Tensor:
    """(…, d + 1), the weights of the values at the nodes in the polynomial at the points θ, (…), in float64."""
    points, gaps = _gaps(degree, theta.device)
    ratios = (theta.double()[..., None, None] - points) / gaps
    own = gaps.isinf()
    weights = ratios[..., 0].masked_fill(own[:, 0], 1)
    for number in range(1, degree + 1):
        weights = weights * ratios[..., number].masked_fill(own[:, number], 1)
    return weights


def by_clock(y: Tensor, clocks: int) -> Tensor:
    """(m, *state) ↦ (m, C, n), states separated by clock."""
    return y.reshape(len(y), clocks, y.shape[1:].numel() // clocks)


@dataclass(frozen=True)
class Steps:
    """Steps of C clocks, one common clock or one per sample, whose polynomials are rows of a solution.

    Every gradient method that differentiates rows thereby differentiates dense output.

    Attributes:
        asked: The rows at the requested times.
        rows: (S, d + 1), the rows of the n-th step of all clocks: its polynomial of degree d at the `nodes`.
        starts: (S, C), the start times of the steps.
        ends: (S, C), the end times; for padding, any time other than the start.
        count: (C,), number of steps of each clock.
        first: (C,), the first times of the clocks.
        last: (C,), the last times reached.
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
        """The same with all times mapped by `move`, which attaches their gradients."""
        return replace(self, starts=move(self.starts), ends=move(self.ends))


@dataclass
class Mesh:
    """Requests steps from the integration loop: all of them, or those with a sign change of an event.

    Attributes:
        dense: Whether to keep all steps.
        watch: Checks the end of every step for events; None without events.
        steps: The kept steps, set by the loop at the end of the solve.
    """

    dense: bool
    watch: Watch | None = None
    steps: Steps | None = None
