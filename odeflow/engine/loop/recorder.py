"""Recorder: the rows of the solution, collected as the steps pass the requested times."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from odeflow.engine.output.interpolant import JointMesh
from odeflow.engine.output.solution import Solution, Stats
from odeflow.engine.step.stages import Stages

SAME_TIME = 2  # spacings of floating-point numbers by which a step's end may miss a time that it is meant to meet


@dataclass(frozen=True)
class Rows:
    """Which rows of the solution a step gave.

    Attributes:
        places: The places θ inside the step, those of the mesh included, whose states are rows.
        inside: The rows of these.
        end: The row of the step's end, if it is one.
    """

    places: tuple[float, ...]
    inside: slice
    end: int | None


class Outputs:
    """Collects the solution's rows as the steps pass the requested times, and those that the mesh needs.

    Args:
        t: (T,), the requested times.
        y0: (*state), the state at the first.
        mesh: Wants rows of its own.
    """

    def __init__(self, t: Tensor, y0: Tensor, mesh: JointMesh | None) -> None:
        self.t, self.mesh = t, mesh
        self.times: list[float] = t.tolist()
        self.blocks = [y0[None]]
        self.size = 1
        self.asked = [0] if mesh is None else mesh.asked
        self.asked[:] = [0]
        largest = max(abs(self.times[0]), abs(self.times[-1]))
        gaps = (abs(second - first) for first, second in pairwise(self.times))
        self.tolerance = min(SAME_TIME * math.ulp(largest), 0.25 * min(gaps))

    @property
    def stopped(self) -> bool:
        """Whether the solve ends before its last time."""
        return self.mesh is not None and self.mesh.stopped

    def start(self, stages: Stages) -> None:
        """The solve starts."""
        if self.mesh is not None:
            self.mesh.start(self.times[0], self.blocks[0][0], stages.degree)

    def step(self, stages: Stages, t: float, t1: float, y1: Tensor) -> Rows:
        """Takes the rows of the step from t to (t1, y1)."""
        places, inside, end = self._inside(t, t1), slice(0, 0), None
        asked = len(places)
        if self.mesh is not None:
            places += self.mesh.places(t1, y1)
            if len(places) > asked:
                self.mesh.blocks[len(self.mesh.times) - 2] = self.size + asked
        if places:
            inside = self._add(stages.dense(places), asked)
        if len(self.asked) < len(self.times) and abs(t1 - self.times[len(self.asked)]) <= self.tolerance:
            end = self._add(y1[None], 1).start
        return Rows(places, inside, end)

    def _inside(self, t: float, t1: float) -> tuple[float, ...]:
        """The points θ between 0 and 1 of the requested times inside the step."""
        places: list[float] = []
        sign, number = math.copysign(1.0, t1 - t), len(self.asked)
        while number < len(self.times) and sign * (t1 - self.times[number]) > self.tolerance:
            places.append((self.times[number] - t) / (t1 - t))
            number += 1
        return tuple(places)

    def _add(self, block: Tensor, asked: int) -> slice:
        """Takes rows, of which the first were requested; returns which they are."""
        rows = slice(self.size, self.size + len(block))
        self.asked.extend(range(self.size, self.size + asked))
        self.blocks.append(block)
        self.size = rows.stop
        return rows

    def solution(self, stats: Stats) -> Solution:
        """All rows."""
        return Solution(self.t, torch.cat(self.blocks), stats)

    def partial(self, t: float, y: Tensor, stats: Stats) -> Solution:
        """What is known when the solve failed after it had reached (t, y)."""
        rows, times = torch.cat(self.blocks)[self.asked], self.times[: len(self.asked)]
        if abs(t - times[-1]) > self.tolerance:
            rows, times = torch.cat((rows, y[None])), [*times, t]
        return Solution(torch.tensor(times, dtype=torch.float64), rows, stats)
