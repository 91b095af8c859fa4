"""Shooting: search a start from which the solution meets a target."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import odeflow as of
from odeflow_tasks import shooting_figures

MOMENTS = 201
"""Number of times at which a path is kept for pictures."""


class Shooting(of.Task):
    """Moves the initial state, and by choice the last time or the field, until the solution meets its targets.

    The loss is the sum over targets and entries of weight · (y(t) − target)². `distance`, logged beside it, is the
    largest Euclidean distance from a target, without weights. It needs no data: with `NoData`, a batch is a try.

    Args:
        dynamics: The vector field, of width d.
        solver: The solver.
        initial: (d,), the state at t0 where the search begins.
        target: For each of the times what the state is to be: d numbers, null where an entry may be anything.
        times: The times of the targets, in order, after t0 or before it.
        gradient: The gradient method; `Checkpointed()` by default.
        flow: Options of the flow, of which t0 is the first time; the last is that of the last target.
        free: Which entries of the initial state may move, counted from 0; by default all.
        free_time: Whether the last time may move, to any on the same side of the one before it.
        freeze: Whether the parameters of the dynamics are held.
        weights: (d,), the weight of each entry in the loss; by default 1.
        plane: The two entries of the state that pictures show, counted from 0; by default the first two, or of a state
            with one entry this over time.

    Raises:
        SettingError: The options contradict each other, or nothing may move.
    """

    initial: Tensor
    target: Tensor
    counts: Tensor
    weights: Tensor
    times: Tensor

    def __init__(
        self,
        dynamics: of.Dynamics,
        solver: of.Solver,
        initial: Sequence[float],
        target: Sequence[Sequence[float | None]],
        times: Sequence[float],
        gradient: of.Gradient | None = None,
        flow: of.FlowOptions = of.FlowOptions(),
        free: Sequence[int] | None = None,
        free_time: bool = False,
        freeze: bool = True,
        weights: Sequence[float] | None = None,
        plane: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        given = "the last time is that of the last target"
        whole = "the initial state has every entry that the dynamics' width counts"
        flow.refuse("Shooting", t1=given, steer=given, augment=whole, lift=whole)
        size, t0 = dynamics.width, flow.t0
        free = list(range(size)) if free is None else list(free)
        _check_lengths(size, initial=initial, weights=weights, **{f"target[{k}]": row for k, row in enumerate(target)})
        _check_entries(size, free=free, plane=plane or ())
        if not times or len(target) != len(times):
            raise of.SettingError(f"Shooting wants a target for each time; got {len(target)} and {len(times)}")
        steps = torch.tensor([t0, *times]).diff()
        if not ((steps > 0).all() or (steps < 0).all()):
            raise of.SettingError(f"Shooting: times must lead away from t0 = {t0:g}, in order; got {list(times)}")
        if freeze:
            dynamics.requires_grad_(False)
        if not (free or free_time or any(param.requires_grad for param in dynamics.parameters())):
            raise of.SettingError("Shooting: nothing may move. Set free, free_time=True, or freeze=False")
        wanted = torch.tensor([[math.nan if entry is None else float(entry) for entry in row] for row in target])
        if wanted.isnan().all():
            raise of.SettingError("Shooting: no entry of the target counts. Give at least one number that is not null")
        self.flow = of.Flow(dynamics, solver, gradient, replace(flow, t1=times[-1]))
        self.register_buffer("initial", torch.tensor([float(entry) for entry in initial]), persistent=False)
        self.register_buffer("target", wanted.nan_to_num(), persistent=False)
        self.register_buffer("counts", ~wanted.isnan(), persistent=False)
        self.register_buffer("weights", torch.tensor(weights or [1.0] * size), persistent=False)
        self.register_buffer("times", torch.tensor([t0, *times], dtype=torch.float64), persistent=False)
        self.free, self.free_time, self.plane = free, free_time, plane
        self.moved = nn.Parameter(self.initial[free])
        self.log_duration = nn.Parameter(steps[-1].abs().log(), requires_grad=free_time)
        self.paths: dict[int, Tensor] = {}
        self.distances: list[float] = []

    @property
    def start(self) -> Tensor:
        """(d,), the initial state as far as it has come."""
        return self.initial.index_put((torch.tensor(self.free, dtype=torch.long, device=self.device),), self.moved)

    @property
    def moments(self) -> Tensor:
        """(1 + K,), t0 and the times of the targets, as far as the last has come."""
        if not self.free_time:
            return self.times
        before, last = self.times[-2:]
        return torch.cat([self.times[:-1], (before + (last - before).sign() * self.log_duration.exp())[None]])

    def forward(self) -> Tensor:
        """(K, d), the states at the times of the targets."""
        y = self.flow.trajectory(self.start[None], self.moments).y
        return y[1:, 0]

    def path(self) -> Tensor:
        """(M, 1 + d), times and states from start to end."""
        with torch.no_grad():
            t = torch.linspace(0, 1, MOMENTS, dtype=torch.float64, device=self.device)
            t = self.moments[0].lerp(self.moments[-1], t)
            y = self.flow.trajectory(self.start[None], t).y
            return torch.cat([t[:, None].to(y), y[:, 0]], dim=1)

    def loss(self, batch: Any, stage: str) -> Tensor:
        """The sum of the weighted squares of all misses."""
        tried = len(self.distances)
        if stage == "train" and not tried & (tried - 1):  # none, or a power of two
            self.paths[tried] = self.path().cpu()
        miss = (self() - self.target) * self.counts
        distance = torch.linalg.vector_norm(miss.detach(), dim=1).max()
        self.log(f"{stage}/distance", distance, prog_bar=True, on_step=False, on_epoch=True, batch_size=1)
        if stage == "train":
            self.distances.append(float(distance))
        return (self.weights * miss.square()).sum()

    def sample_count(self, batch: Any) -> int:
        return 1

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(M, 1 + d), times and states of the path."""
        return self.path()

    def figures(self, batch: Any) -> dict[str, Figure]:
        """The paths that were tried, with start and target, and the distance from it over the tries."""
        paths = self.paths | {len(self.distances): self.path().cpu()}
        target = self.target.where(self.counts, math.nan).cpu()
        times = self.moments[1:].detach().cpu()
        return {"paths": shooting_figures.draw(self.flow, paths, times, target, self.plane, self.distances)}


def _check_lengths(size: int, **vectors: Sequence[float | None] | None) -> None:
    for name, vector in vectors.items():
        if vector is not None and len(vector) != size:
            raise of.SettingError(
                f"Shooting: {name} must have {size} entries, the dynamics' width; got {len(vector)}: {list(vector)}"
            )


def _check_entries(size: int, **choices: Sequence[int]) -> None:
    for name, chosen in choices.items():
        if len(set(chosen)) < len(chosen) or not all(0 <= entry < size for entry in chosen):
            raise of.SettingError(f"Shooting: {name} must name different entries from 0 to {size - 1}; got {chosen}")
