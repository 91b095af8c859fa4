"""Shooting: finds an initial state whose solution meets targets."""

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
"""Number of times of a path in figures."""


class Shooting(of.Task):
    """Optimises the initial state, and optionally the last time or the field, until the solution meets its targets.

    The loss is the sum over targets and entries of weight · (y(t) − target)². The logged `distance` is the largest
    unweighted Euclidean distance from a target. No data are needed: with `NoData`, each batch is one iteration.

    Args:
        dynamics: The vector field, of width d.
        solver: The solver.
        initial: (d,), the initial guess of the state at t0.
        target: The target state for each of the times: d numbers, null for free entries.
        times: The times of the targets, in order, all after t0 or all before it.
        gradient: The gradient method; `Checkpointed()` by default.
        flow: Options of the flow. t0 is the first time; the last time is that of the last target.
        free: Indices of the optimised entries of the initial state; by default all.
        free_time: Whether to optimise the last time, which stays on the same side of the time before it.
        freeze: Whether to freeze the parameters of the dynamics.
        weights: (d,), the weight of each entry in the loss; by default 1.
        plane: Indices of the two entries of the state shown in figures; by default the first two. A state with one
            entry is shown over time.

    Raises:
        SettingError: The options contradict each other, or there is nothing to optimise.
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
            raise of.SettingError(f"Shooting expects a target for each time; got {len(target)} and {len(times)}")
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
        """(d,), the current initial state."""
        return self.initial.index_put((torch.tensor(self.free, dtype=torch.long, device=self.device),), self.moved)

    @property
    def moments(self) -> Tensor:
        """(1 + K,), t0 and the current times of the targets."""
        if not self.free_time:
            return self.times
        before, last = self.times[-2:]
        return torch.cat([self.times[:-1], (before + (last - before).sign() * self.log_duration.exp())[None]])

    def forward(self) -> Tensor:
        """(K, d), the states at the times of the targets."""
        y = self.flow.trajectory(self.start[None], self.moments).y
        return y[1:, 0]

    def path(self) -> Tensor:
        """(M, 1 + d), times and states of the solution."""
        with torch.no_grad():
            t = torch.linspace(0, 1, MOMENTS, dtype=torch.float64, device=self.device)
            t = self.moments[0].lerp(self.moments[-1], t)
            y = self.flow.trajectory(self.start[None], t).y
            return torch.cat([t[:, None].to(y), y[:, 0]], dim=1)

    def loss(self, batch: Any, stage: str) -> Tensor:
        """The weighted sum of squared deviations from the targets."""
        tried = len(self.distances)
        if stage == "train" and not tried & (tried - 1):  # 0 or a power of two
            self.paths[tried] = self.path().cpu()
        miss = (self() - self.target) * self.counts
        distance = torch.linalg.vector_norm(miss.detach(), dim=1).max()
        self.log_mean(f"{stage}/distance", distance, 1, prog_bar=True)
        if stage == "train":
            self.distances.append(float(distance))
        return (self.weights * miss.square()).sum()

    def sample_count(self, batch: Any) -> int:
        return 1

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(M, 1 + d), times and states of the path."""
        return self.path()

    def figures(self, batch: Any) -> dict[str, Figure]:
        """The paths of the iterations with start and targets, and the distance over the iterations."""
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
