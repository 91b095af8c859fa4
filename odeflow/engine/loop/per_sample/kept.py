"""The per-sample steps kept by a mesh."""

from dataclasses import dataclass

import torch
from torch import Tensor

from odeflow.engine.equation.clock import DTYPE
from odeflow.engine.loop.per_sample.clocks import Samples
from odeflow.engine.output.mesh import Mesh, Steps, nodes


@dataclass(frozen=True)
class Kept:
    """Kept steps, one per sample, for a subset of the samples.

    Attributes:
        ids: (c,), the samples.
        number: (c,), the index among the kept steps of the sample.
        start: (c,), the start times.
        end: (c,), the end times.
    """

    ids: Tensor
    number: Tensor
    start: Tensor
    end: Tensor


class KeptSteps:
    """Keeps the steps requested by a mesh. The n-th kept step of all samples is a block of d + 1 additional rows.

    Args:
        mesh: The mesh.
        samples: All samples, at their start.
        asked: Number of requested times.
        degree: Degree d of the polynomials.
    """

    def __init__(self, mesh: Mesh, samples: Samples, asked: int, degree: int) -> None:
        self.mesh, self.asked, self.degree = mesh, asked, degree
        self.first, self.last, self.y = samples.t, samples.t, samples.y
        self.count = torch.zeros_like(samples.ids)
        self.kept: list[Kept] = []
        if mesh.watch is not None:
            mesh.watch.start(self.first, self.y)

    @property
    def size(self) -> int:
        """Total number of rows of the blocks."""
        return int(self.count.max()) * (self.degree + 1)

    def see(self, samples: Samples, taken: Tensor) -> tuple[Tensor, Tensor | None]:
        """Checks the ends of steps.

        Args:
            samples: The samples at the ends.
            taken: (b,), whether the step was accepted.

        Returns:
            (b,), whether the step is kept, and (b,), whether the sample's solve ends with it; None if none can.
        """
        # new tensors: an event value may be a view of them
        self.last, watch = self.last.index_copy(0, samples.ids, samples.t), self.mesh.watch
        if watch is None:
            return taken, None
        ids = samples.ids[taken]
        self.y = self.y.index_copy(0, ids, samples.y[taken])
        none = torch.zeros_like(self.first, dtype=torch.bool)
        kept, stopped, moved = none, none, none.index_fill(0, ids, True)
        for event, crosses in watch.sees(self.last, self.y, self.count, moved):
            kept, stopped = kept | crosses, stopped | (crosses & event.terminal)
        return taken if self.mesh.dense else kept[samples.ids], stopped[samples.ids]

    def keep(self, samples: Samples, h: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keeps steps.

        Args:
            samples: The samples at the start of the steps.
            h: (b,), the step sizes.
            kept: (b,), whether to keep the step.

        Returns:
            Sample, point θ of the step, and row of the solution, each (m,).
        """
        whose = kept.nonzero().squeeze(1)
        ids, t = samples.ids[whose], samples.t[whose]
        number, theta = self.count[ids], torch.tensor(nodes(self.degree), dtype=DTYPE, device=ids.device)
        self.kept.append(Kept(ids, number, t, t + h[whose]))
        self.count[ids] += 1
        row = self.asked + number[:, None] * len(theta) + torch.arange(len(theta), device=ids.device)
        return whose.repeat_interleave(len(theta)), theta.repeat(len(whose)), row.flatten()

    def steps(self) -> Steps:
        """All kept steps."""
        starts = self.first.repeat(int(self.count.max()), 1)
        ends = starts + 1
        for each in self.kept:
            starts[each.number, each.ids], ends[each.number, each.ids] = each.start, each.end
        rows = torch.arange(self.size, device=starts.device).view(len(starts), self.degree + 1)
        return Steps(
            asked=list(range(self.asked)),
            rows=self.asked + rows,
            starts=starts,
            ends=ends,
            count=self.count,
            first=self.first,
            last=self.last,
            per_sample=True,
        )
