"""What two processes train in tests: every task with every gradient, tiny, each with batches of its own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import odeflow as of
from odeflow.plugin import registry
from odeflow_cde import CDE, Control
from odeflow_dynamics import MLP, Linear, LotkaVolterra
from odeflow_matching import FlowMatching, ScoreMatching
from odeflow_sde import (
    EulerHeun,
    LatentSDE,
    OrnsteinUhlenbeck,
    ReversibleHeun,
    TransitionLikelihood,
)
from odeflow_solvers import RK4, Dopri5, Heun
from odeflow_tasks import (
    GRUD,
    ODERNN,
    RNN,
    Classification,
    Density,
    FlatStem,
    LatentODE,
    LevenbergMarquardt,
    Perceptron,
    Readout,
    Rectilinear,
    Regression,
    Shooting,
    Trajectory,
    Variational,
)
from odeflow_tasks.chain import Chain
from odeflow_tasks.initial_states import Initial

Batch = Any
Gradient = of.Gradient | None


@dataclass(frozen=True)
class Case:
    """A task in training.

    Attributes:
        build: The task with a gradient, after seeding.
        batch: (rows, generator) ↦ a batch.
        gradients: The names of the gradients; none for a task that solves nothing, or nothing by them.
        divided: Whether each process has its own rows; otherwise all have the same.
        repeated: Whether all batches are the same.
        options: Options of the trainer.
    """

    build: Callable[[Gradient], of.Task]
    batch: Callable[[int, torch.Generator], Batch]
    gradients: tuple[str, ...] = ()
    divided: bool = True
    repeated: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def rows(batch: Batch, place: slice) -> Batch:
    """Some rows of a batch."""
    if isinstance(batch, of.Series):
        return batch.take(place)
    return batch[place] if isinstance(batch, Tensor) else tuple(part[place] for part in batch)


def _labelled(count: int, generator: torch.Generator) -> Batch:
    return torch.randn(count, 3, generator=generator), torch.arange(count) % 3


def _targets(count: int, generator: torch.Generator) -> Batch:
    x = torch.randn(count, 2, generator=generator)
    return x, x.square().sum(1, keepdim=True)


def _points(count: int, generator: torch.Generator) -> Batch:
    return torch.randn(count, 2, generator=generator) * torch.tensor([1.0, 0.3])


def _nothing(count: int, generator: torch.Generator) -> Batch:
    return torch.empty(0)


def _series(count: int, generator: torch.Generator) -> of.Series:
    """Waves of two features with labels; values are missing, and nothing is extrapolated in the second half."""
    t = torch.linspace(0.0, 1.5, 6).expand(count, 6)
    y = torch.stack([torch.sin(4 * t + number) for number in range(2)], dim=-1)
    y = y + 0.1 * torch.randn(y.shape, generator=generator)
    seen = torch.rand(y.shape, generator=generator) < 0.6
    target = torch.rand(y.shape, generator=generator) < 0.7
    seen[count // 2 :, -1] = True
    return of.Series(t, y.where(seen | target, 0.0), seen, target, torch.arange(count) % 2)


def _trajectories(count: int, generator: torch.Generator) -> of.Series:
    """Populations at common times, some of which are missing."""
    t = torch.linspace(0.0, 1.0, 5)
    y = 1.5 + torch.sin(3 * t)[None, :, None] * torch.rand(count, 1, 2, generator=generator)
    missing = torch.rand(y.shape, generator=generator) < 0.3
    missing[:, 0] = False
    return of.Series.observed(t, y.masked_fill(missing, torch.nan))


def _paths(count: int, generator: torch.Generator) -> of.Series:
    """Paths of one state; values are missing, so that paths have unequal numbers of transitions."""
    y = torch.randn(count, 5, 1, generator=generator).cumsum(1)
    missing = torch.rand(y.shape, generator=generator) < 0.2
    return of.Series.observed(torch.linspace(0.0, 1.0, 5), y.masked_fill(missing, torch.nan))


def _fixed() -> RK4:
    return RK4(num_steps=2)


def _readout() -> Readout:
    return Readout(classifier=Perceptron(()))


def _trained_by(gradient: Gradient, **options: Any) -> Trajectory:
    return Trajectory(LotkaVolterra(), RK4(step_size=0.25), gradient, **options)


class Squares(Trajectory):
    """A trajectory whose coefficients are found by nonlinear least squares."""

    def configure_optimizers(self) -> Any:
        return LevenbergMarquardt(self.parameters())


def _regression(gradient: Gradient) -> Regression:
    options = of.FlowOptions(augment=1, regularizers=[of.Kinetic(0.1)])
    return Regression(MLP(3, [4]), _fixed(), gradient, options)


def _latent_sde(gradient: Gradient) -> LatentSDE:
    reversible = type(gradient).__name__ == "Reversible"
    solver = ReversibleHeun(step_size=0.3) if reversible else EulerHeun(step_size=0.3)
    return LatentSDE(
        MLP(2, [4]),
        MLP(4, [4]),
        solver,
        calculus="stratonovich",
        gradient=gradient,
        dim=2,
        hidden=4,
        num_classes=2,
        readout=_readout(),
    )


def _control() -> Control:
    return Control(interpolation=Rectilinear())


ALL = tuple(registry.plugins("gradient"))
OF_NOISE = ("Backprop", "Checkpointed", "Reversible")
WITH_BREAKS = tuple(name for name in ALL if name != "Reversible")
NAMED: dict[str, Any] = {"dim": 2, "num_classes": 2}
CASES: dict[str, Case] = {
    "Classification": Case(
        lambda gradient: Classification(
            MLP(4, [4]), _fixed(), gradient, stem=FlatStem(), shape=(3,), num_classes=3, class_weights=[1.0, 2.0, 4.0]
        ),
        _labelled,
        ALL,
    ),
    "Regression": Case(_regression, _targets, ALL),
    "Regression of steps for each sample": Case(
        lambda gradient: Regression(MLP(2, [4]), Dopri5(1e-3, 1e-3, per_sample=True), gradient),
        _targets,
        ("Checkpointed",),
    ),
    "Regression, accumulated and clipped": Case(
        _regression,
        _targets,
        ALL,
        options={"accumulate_grad_batches": 2, "gradient_clip_val": 0.1, "deterministic": True},
    ),
    "Density": Case(
        lambda gradient: Density(
            MLP(2, [4]), _fixed(), gradient, divergence=of.Hutchinson(), chain=Chain(batch_norm=True)
        ),
        _points,
        ALL,
    ),
    "Variational": Case(lambda gradient: Variational(MLP(2, [4]), _fixed(), gradient, planar=1), _points, ALL),
    "Trajectory": Case(lambda gradient: _trained_by(gradient, distance="mse"), _trajectories, ALL),
    "Trajectory of likelihood": Case(
        lambda gradient: _trained_by(gradient, distance="nll"), _trajectories, ("Checkpointed",)
    ),
    "Trajectory of least squares": Case(
        lambda gradient: Squares(LotkaVolterra(), RK4(step_size=0.25), gradient, distance="nll", noise=[0.1, 0.2]),
        _trajectories,
        ("Checkpointed",),
        repeated=True,
    ),
    "Trajectory in segments": Case(
        lambda gradient: _trained_by(gradient, segment=3, initial=Initial("learned", shared=["prey"])),
        _trajectories,
        ("Checkpointed",),
        divided=False,
        repeated=True,
    ),
    "LatentODE": Case(
        lambda gradient: LatentODE(MLP(3, [4]), _fixed(), gradient, readout=_readout(), **NAMED), _series, ALL
    ),
    "RNN": Case(lambda gradient: RNN(width=4, readout=_readout(), **NAMED), _series),
    "GRUD": Case(lambda gradient: GRUD(width=4, readout=_readout(), **NAMED), _series),
    "ODERNN": Case(lambda gradient: ODERNN(MLP(4, [4]), _fixed(), readout=_readout(), **NAMED), _series),
    "CDE": Case(
        lambda gradient: CDE(
            MLP(4, [4], time="none"), Heun(step_size=1.0), gradient, _control(), readout=_readout(), **NAMED
        ),
        _series,
        WITH_BREAKS,
    ),
    "Shooting": Case(
        lambda gradient: Shooting(Linear(2, bias=False), _fixed(), [1.0, 0.0], [[0.0, 0.5]], [1.0], gradient),
        _nothing,
        ALL,
        divided=False,
    ),
    "LatentSDE": Case(_latent_sde, _series, OF_NOISE),
    "TransitionLikelihood": Case(lambda gradient: TransitionLikelihood(OrnsteinUhlenbeck(1.0, 0.1, 0.5), 2, 2), _paths),
    "FlowMatching": Case(lambda gradient: FlowMatching(MLP(2, [4]), _fixed(), transport=0), _points),
    "ScoreMatching": Case(lambda gradient: ScoreMatching(MLP(2, [4]), _fixed(), transport=0), _points),
}
ROWS = [(name, gradient) for name, case in CASES.items() for gradient in case.gradients or ("",)]
