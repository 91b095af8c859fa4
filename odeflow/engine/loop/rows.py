"""The rows of the solution that lie in a step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from odeflow.engine.step.per_sample import Points
from odeflow.engine.step.stages import Stages

Index = slice | list[int] | tuple[Tensor, Tensor]
"""Of rows of the solution; of (rows, samples) with per-sample clocks."""


@dataclass(frozen=True)
class Rows:
    """The rows of the solution that lie in a step.

    Attributes:
        points: The points θ in the interior of the step that are rows, or at the nodes of a kept step.
        index: Where the rows that `values` returns are in the solution.
        end: The row of the step's end, if any and common to all samples.
        ending: (k,), the samples whose step ends at an output time, with per-sample clocks.
    """

    points: tuple[float, ...] | Points
    index: Index
    end: int | None = None
    ending: Tensor | None = None

    def values(self, stages: Stages, y1: Tensor) -> Tensor | None:
        """(m, *state), the states at the rows, after a step to y₁; None if there are none."""
        if self.ending is None:
            return stages.dense(self.points) if self.points else None
        ends = y1[self.ending]
        return torch.cat((stages.dense(self.points), ends)) if len(self.points) else ends


NOTHING = Rows((), slice(0, 0))
