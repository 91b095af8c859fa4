"""Recorder: collects the saved states as the steps pass the requested times."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odeflow.engine.equation.clock import DTYPE, Truth
from odeflow.engine.loop.clocks import Clocks
from odeflow.engine.loop.rows import NOTHING, Index, Rows
from odeflow.engine.output.mesh import Mesh, Steps, nodes
from odeflow.engine.output.solution import Solution
from odeflow.engine.step.stages import Stages


class Recorder:
    """Collects the rows of the solution: the requested times, and behind them those of the mesh.

    The n-th kept step of all clocks is a block of d + 1 rows.

    Args:
        t: The requested times.
        y0: (*state), the state at the first.
        mesh: Requests additional rows.
        clocks: The clocks.
    """

    def __init__(self, t: Tensor | Sequence[float], y0: Tensor, mesh: Mesh | None, clocks: Clocks) -> None:
        self.t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=DTYPE)
        self.mesh, self.clocks, self.shape = mesh, clocks, y0.shape
        self.samples = len(y0) if clocks.per_sample else 1
        self.nodes: tuple[float, ...] = ()
        self.values = [y0 if clocks.per_sample else y0[None]]
        self.index: list[Index] = [slice(0, self.samples)]

    def start(self, stages: Stages, y0: Tensor) -> None:
        """Starts the solve."""
        if self.mesh is not None:
            self.nodes = nodes(stages.degree)
            if self.mesh.watch is not None:
                t, y, *_ = self.clocks.whole(y0)
                self.mesh.watch.start(t, y)

    def keeps(self, y1: Tensor) -> Truth:
        """Whether the mesh keeps the steps to y₁. The solve may end with them."""
        assert self.mesh is not None
        t, y, number, moved = self.clocks.whole(y1)
        kept = self.mesh.watch is not None and self.clocks.heed(self.mesh.watch.sees(t, y, number, moved))
        return self.clocks.taken if self.mesh.dense else kept

    def step(self, stages: Stages, y1: Tensor, kept: Truth) -> Rows:
        """Stores the rows of the steps to y₁."""
        rows = self.clocks.rows(self.nodes, kept)
        if rows is NOTHING:
            return rows
        values = rows.values(stages, y1)
        if values is not None:
            self._store(values, rows.index)
        if rows.end is not None:
            self._store(y1[None], slice(rows.end, rows.end + 1))
        return rows

    def _store(self, values: Tensor, index: Index) -> None:
        self.values.append(values)
        self.index.append(index)

    def solution(self, evaluations: int) -> Solution:
        """The solution with all rows."""
        if self.mesh is not None:
            starts, ends, count = self.clocks.table()
            rows = torch.arange(len(starts) * len(self.nodes), device=starts.device).view(-1, len(self.nodes))
            first, last = self.clocks.span()
            asked = list(range(self.clocks.reached))
            rows += self.t.shape[-1]
            self.mesh.steps = Steps(asked, rows, starts, ends, count, first, last, self.clocks.per_sample)
        return Solution(self.t, self._rows(), self.clocks.stats(evaluations))

    def _rows(self) -> Tensor:
        """(R, *state), all rows. Those that were not reached contain the initial state."""
        values, total = torch.cat(self.values), self.t.shape[-1] + self.clocks.blocks * len(self.nodes)
        if self.mesh is None and not self.clocks.per_sample and len(values) == total:
            return values
        places = torch.cat([_flat(index, self.samples, values.device) for index in self.index])
        order = torch.arange(self.samples, device=values.device).repeat(total)
        order[places] = torch.arange(len(places), device=values.device)
        return values[order].view(total, *self.shape)

    def partial(self, y: Tensor, evaluations: int) -> Solution:
        """The partial solution of a solve that failed after y."""
        t, y = self.clocks.cut(self.t, self._rows()[: self.t.shape[-1]], y)
        return Solution(t, y, self.clocks.stats(evaluations))


def _flat(index: Index, samples: int, device: torch.device) -> Tensor:
    """The places in (rows · samples)."""
    if isinstance(index, tuple):
        return index[0] * samples + index[1]
    if isinstance(index, slice):
        return torch.arange(index.start, index.stop, device=device)
    return torch.tensor(index, device=device)
