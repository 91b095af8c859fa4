"""Matching: what is common to tasks that train a flow without solving it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import odeflow as of
from odeflow_matching.coupling import Coupling
from odeflow_matching.guided import Guided
from odeflow_matching.independent import Independent
from odeflow_matching.interpolant import Interpolant
from odeflow_matching.isotropic_normal import IsotropicNormal
from odeflow_matching.transport import Transport
from odeflow_tasks import density_figures
from odeflow_tasks.base import Base
from odeflow_tasks.batch import inputs
from odeflow_tasks.chain import Chain
from odeflow_tasks.density import Density
from odeflow_tasks.dequantisation import Dequantisation

NODES = 8
"""Number of Gauss–Legendre nodes of the path energy."""


@dataclass(frozen=True)
class Draw:
    """What a loss compares, drawn at random.

    Attributes:
        t: (B,), the interpolant's times, in [0, 1].
        x: (B, *state), points on the way.
        velocity: (B, *state), their velocities.
        x0: (B, *state), where they start.
        x1: (B, *state), where they end.
        condition: (B, c), their conditions, if any; zeros where dropped.
    """

    t: Tensor
    x: Tensor
    velocity: Tensor
    x0: Tensor
    x1: Tensor
    condition: Tensor | None

    def take(self, rows: slice) -> "Draw":
        """Some of the rows."""
        condition = None if self.condition is None else self.condition[rows]
        return Draw(self.t[rows], self.x[rows], self.velocity[rows], self.x0[rows], self.x1[rows], condition)


class Matching(Density, ABC):
    """A `Density` whose training evaluates its field once at random points between source and data, and solves nothing.

    Arguments are those of `Density` and of its subclasses.
    """

    def __init__(
        self,
        dynamics: of.Dynamics,
        solver: of.Solver,
        gradient: of.Gradient | None,
        flow: of.FlowOptions,
        shape: Sequence[int] | None,
        num_conditions: int,
        by_class: bool,
        num_classes: int,
        eval_divergence: of.Divergence | None,
        chain: Chain,
        dequantisation: Dequantisation,
        base: Base | None,
        interpolant: Interpolant,
        coupling: Coupling | None,
        drop: float,
        transport: int,
    ) -> None:
        name = type(self).__name__
        unsolved = "training solves nothing"
        flow.refuse(name, regularizers=unsolved, steer=unsolved)
        if chain.num_flows > 1 or chain.batch_norm:
            raise of.SettingError(f"{name} matches one flow: leave chain.num_flows at 1, and chain.batch_norm off")
        of.check_range(self, "[0, 1]", drop=drop)
        of.check_least(self, 0, transport=transport)
        if drop and not (num_conditions or by_class):
            raise of.SettingError(f"{name}: drop = {drop:g} leaves out conditions, of which there are none")
        if interpolant.spread != 1 and base is None:
            base = IsotropicNormal(interpolant.spread)
        super().__init__(
            dynamics,
            solver,
            gradient,
            flow,
            shape,
            num_conditions,
            by_class,
            num_classes,
            None,
            eval_divergence,
            chain,
            dequantisation,
            0.0,
            base,
        )
        self.interpolant, self.coupling, self.drop = interpolant, coupling or Independent(), drop
        names = ("samples", "source", "data") if transport else ()
        stages = ("val_", "test_")
        self.transports = nn.ModuleDict({stage + each: Transport(transport) for stage in stages for each in names})
        self._others: Tensor | None = None

    @abstractmethod
    def compare(self, draw: Draw) -> Tensor:
        """(), the mean square by which the field misses what was drawn."""

    @property
    def flow(self) -> of.Flow:
        """The flow, of the first of the transforms."""
        flow = self.cnf.transforms[0]
        assert isinstance(flow, of.Flow)
        return flow

    def training_loss(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """(), the mean square by which the field misses a random draw; as of `compare`."""
        return self.compare(self.draw(x, condition))

    @torch.no_grad()
    def draw(self, x: Tensor, condition: Tensor | None) -> Draw:
        """Random points between the source and data.

        Args:
            x: (B, *shape), data.
            condition: (B, num_conditions), if there are any.
        """
        x1 = self.flow_end(x)
        pairs = self.coupling.pairs(self.cnf.base.sample(torch.Size([len(x1)])), x1, condition)
        low, high = self.interpolant.span
        t = low + (high - low) * torch.rand(len(x1), dtype=x1.dtype, device=x1.device)
        z = torch.randn_like(x1) if self.interpolant.noisy else None
        point, velocity = self.interpolant.point(t, pairs.x0, pairs.x1, z)
        condition = pairs.condition
        if condition is not None and self.drop:
            kept = torch.rand(len(condition), 1, dtype=x1.dtype, device=x1.device) >= self.drop
            condition = condition * kept
        return Draw(t, point, velocity, pairs.x0, pairs.x1, condition)

    def evaluated(self, field: nn.Module, t: Tensor, y: Tensor, condition: Tensor | None) -> Tensor:
        """(B, *state), a field's value at the interpolant's times, in the flow's unit of time.

        Args:
            field: The field, called with [y, condition].
            t: () or (B,), in [0, 1].
            y: (B, *state).
            condition: (B, c), if there are any.
        """
        t0, t1 = self.flow.options.t0, self.flow.options.t1
        time = t0 + (t1 - t0) * t
        if condition is None:
            return field(time, y)
        wide = condition.view(*condition.shape, *(1,) * (y.dim() - 2)).expand(*condition.shape, *y.shape[2:])
        return field(time, torch.cat([y, wide], dim=1))[:, : y.shape[1]]

    # Evaluation

    def loss(self, batch: Any, stage: str) -> Tensor:
        """In training as of `training_loss`; in evaluation the mean of −log p(x) in nats.

        If the density of the source is not known, it is the loss of training there, too.
        """
        if stage == "train":
            return super().loss(batch, stage)
        x, condition = self.dequantisation(self._data_of(batch)), self._condition_of(batch)
        missed = self.training_loss(x, condition)
        self.log_mean(f"{stage}/matching", missed, len(x))
        if self.transports:
            self._log_transport(x, condition, stage)
        return super().loss(batch, stage) if self.likely else missed

    @property
    def likely(self) -> bool:
        """Whether the flow has a likelihood: that of its source is known."""
        base = self.cnf.given_base
        return not isinstance(base, Base) or base.known

    def sample(self, count: int, condition: Tensor | None = None) -> dict[str, Tensor]:
        """As of `Density`; without densities if that of the source is not known."""
        if self.likely:
            return super().sample(count, condition)
        x = self._distribution(condition, count).sample(torch.Size([] if self.num_conditions else [count]))
        return {"x": x.view(count, *self.shape)}

    def guide(self, scale: float) -> None:
        """As of `Task`; the dynamics must be `Guided`."""
        dynamics = self.flow.dynamics
        if not isinstance(dynamics, Guided):
            raise of.SettingError(
                f"guidance needs dynamics that were trained as Guided, with drop; these are {type(dynamics).__name__}"
            )
        dynamics.scale = scale

    def figures(self, batch: Any) -> dict[str, Figure]:
        """As of `Density`; without densities if that of the source is not known."""
        if self.likely:
            return super().figures(batch)
        x = self._data_of(batch)
        if self.shape != (2,) or self.num_conditions:
            return {}
        with torch.random.fork_rng([x.device] if x.is_cuda else []):  # figures must not affect the run
            torch.manual_seed(0)
            return density_figures.without_density(self.cnf, x)

    def fit_baselines(self, part: Any) -> dict[str, of.Baseline]:
        """As of `Density`; keeps training data, to which samples are compared, too."""
        self._others = self._data_of(inputs(part)) if self.transports else None
        return super().fit_baselines(part) if self.likely else {}

    def log_baselines(self, batch: Any, stage: str) -> None:
        """As of `Density`; none without a likelihood to compare."""
        if self.likely:
            super().log_baselines(batch, stage)

    @torch.no_grad()
    def _log_transport(self, x: Tensor, condition: Tensor | None, stage: str) -> None:
        """Logs W₂² of samples and data, beside that of the source and that of other data, and the path energy."""
        metrics = {name: self._transport(f"{stage}_{name}") for name in ("samples", "source", "data")}
        if metrics["samples"].missing > 0:
            z, end = self.cnf.base.sample(torch.Size([len(x)])), self.flow_end(x)
            drawn, energy = self.travelled(z, condition)
            self.log_mean(f"{stage}/path_energy", energy, len(x))
            metrics["samples"].update(drawn, end)
            metrics["source"].update(z, end)
            if self._others is not None:
                chosen = torch.randint(len(self._others), (len(x),))
                metrics["data"].update(self.flow_end(self._others[chosen].to(x)), end)
        for name, metric in metrics.items():
            if metric.x or name == "samples":
                end = "" if name == "samples" else f"_{name}"
                self.log(f"{stage}/w2_squared{end}", metric, on_step=False, on_epoch=True)  # pyright: ignore[reportArgumentType]

    def _transport(self, name: str) -> Transport:
        metric = self.transports[name]
        assert isinstance(metric, Transport)
        return metric

    def travelled(self, z: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, *state), where the flow takes z, and (), the mean of ∫|dy/dt|² dt in the interpolant's time."""
        nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(NODES))
        inner = (nodes + 1) / 2
        t0, duration = self.flow.options.t0, self.flow.options.t1 - self.flow.options.t0
        times = t0 + duration * torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)])
        path = self.flow.trajectory(z, times, context=condition).y
        rates = torch.stack(
            [self.evaluated(self.flow.dynamics, t.to(z), y, condition) for t, y in zip(inner, path[1:-1], strict=True)]
        )
        squares = (duration * rates).square().flatten(2).sum(2).mean(1)
        return path[-1], squares @ (weights / 2).to(squares)
