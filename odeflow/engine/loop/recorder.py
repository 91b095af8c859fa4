"""Recorder: collects the saved states as the steps pass the requested times."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from odeflow.engine.equation.clock import DTYPE
from odeflow.engine.output.mesh import Mesh, Steps, nodes
from odeflow.engine.output.solution import Solution, Stats
from odeflow.engine.step.stages import Stages

SAME_TIME = 2  # tolerance for a step's end to hit a time, in spacings of floating-point numbers


def same_time(times: Sequence[float]) -> float:
    """The largest difference of a step's end from one of these times that hits it."""
    gaps = (abs(second - first) for first, second in pairwise(times))
    return min(SAME_TIME * math.ulp(max(abs(times[0]), abs(times[-1]))), 0.25 * min(gaps))


@dataclass(frozen=True)
class Rows:
    """The rows of the solution that lie in a step.

    Attributes:
        places: The points θ in the interior of the step that are rows, including those of the mesh.
        inside: The indices of these rows.
        end: The row of the step's end, if any.
    """

    places: tuple[float, ...]
    inside: slice
    end: int | None


class Outputs:
    """Collects the rows of the solution: the requested times, and those of the mesh.

    Args:
        t: (T,), the requested times, or a list of them.
        y0: (*state), the state at the first.
        mesh: Requests additional rows.

    Attributes:
        stopped: Whether the solve ends before its last time.
    """

    def __init__(self, t: Tensor | Sequence[float], y0: Tensor, mesh: Mesh | None) -> None:
        self.t, self.mesh = t, mesh
        self.times: list[float] = t.tolist() if isinstance(t, Tensor) else list(t)
        self.blocks = [y0[None]]
        self.size = 1
        self.asked = [0]
        self.kept: list[tuple[float, float, int]] = []  # for the mesh: (start, end, first row) of each step
        self.degree, self.stopped = 1, False
        self.tolerance = same_time(self.times)

    def start(self, stages: Stages) -> None:
        """Starts the solve."""
        if self.mesh is not None:
            self.degree = stages.degree
            if self.mesh.watch is not None:
                self.mesh.watch.start(torch.tensor(self.times[0], dtype=DTYPE), self.blocks[0][0])

    def step(self, stages: Stages, t: float, t1: float, y1: Tensor) -> Rows:
        """Stores the rows of the step from t to (t1, y1)."""
        places, inside, end = self._inside(t, t1), slice(0, 0), None
        asked = len(places)
        if self.mesh is not None and self._keeps(self.mesh, t1, y1):
            places += nodes(self.degree)
            self.kept.append((t, t1, self.size + asked))
        if places:
            inside = self._add(stages.dense(places), asked)
        if len(self.asked) < len(self.times) and abs(t1 - self.times[len(self.asked)]) <= self.tolerance:
            end = self._add(y1[None], 1).start
        return Rows(places, inside, end)

    def _keeps(self, mesh: Mesh, t1: float, y1: Tensor) -> bool:
        """Whether the mesh keeps the step to (t1, y1). The solve may end with it."""
        if mesh.watch is None:
            return True
        seen = mesh.watch.sees(torch.tensor(t1, dtype=DTYPE), y1, len(self.kept))
        self.stopped = any(event.terminal for event, _ in seen)
        return mesh.dense or bool(seen)

    def _inside(self, t: float, t1: float) -> tuple[float, ...]:
        """The points θ in (0, 1) of the requested times inside the step."""
        places: list[float] = []
        sign, number = math.copysign(1.0, t1 - t), len(self.asked)
        while number < len(self.times) and sign * (t1 - self.times[number]) > self.tolerance:
            places.append((self.times[number] - t) / (t1 - t))
            number += 1
        return tuple(places)

    def _add(self, block: Tensor, asked: int) -> slice:
        """Stores rows, the first `asked` of them requested; returns their indices."""
        rows = slice(self.size, self.size + len(block))
        self.asked.extend(range(self.size, self.size + asked))
        self.blocks.append(block)
        self.size = rows.stop
        return rows

    def solution(self, stats: Stats) -> Solution:
        """The solution with all rows."""
        if self.mesh is not None:
            self.mesh.steps = self._steps()
        t = self.t if isinstance(self.t, Tensor) else torch.tensor(self.t, dtype=DTYPE)
        return Solution(t, torch.cat(self.blocks), stats)

    def _steps(self) -> Steps:
        """The kept steps, of a single clock."""
        clock = torch.tensor([each[:2] for each in self.kept], dtype=DTYPE).view(-1, 2)
        rows = torch.tensor([each[2] for each in self.kept], dtype=torch.long)[:, None] + torch.arange(self.degree + 1)
        last = self.kept[-1][1] if self.stopped else self.times[-1]
        return Steps(
            asked=self.asked,
            rows=rows,
            starts=clock[:, :1],
            ends=clock[:, 1:],
            count=torch.tensor([len(self.kept)]),
            first=torch.tensor(self.times[:1], dtype=DTYPE),
            last=torch.tensor([last], dtype=DTYPE),
            per_sample=False,
        )

    def partial(self, t: float, y: Tensor, stats: Stats) -> Solution:
        """The partial solution of a solve that failed after (t, y)."""
        rows, times = torch.cat(self.blocks)[self.asked], self.times[: len(self.asked)]
        if abs(t - times[-1]) > self.tolerance:
            rows, times = torch.cat((rows, y[None])), [*times, t]
        return Solution(torch.tensor(times, dtype=torch.float64), rows, stats)
