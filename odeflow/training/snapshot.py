"""Snapshot: the weights of a training and the state of its optimizers, to which it can return."""

import copy
from dataclasses import dataclass
from typing import Any, Self, TypedDict

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging


class SnapshotState(TypedDict):
    """The attributes of `Snapshot`, as checkpoints contain them."""

    weights: dict[str, Any]
    optimizers: list[dict[Any, Any]]
    averages: list[dict[str, Any]]


@dataclass(frozen=True)
class Snapshot:
    """A copy of what a training step changes, except for learning rates, which follow their schedule.

    Attributes:
        weights: The state of the module.
        optimizers: The state of each optimizer, without its options.
        averages: The averages of weights of each callback that keeps some.
    """

    weights: dict[str, Any]
    optimizers: list[dict[Any, Any]]
    averages: list[dict[str, Any]]

    @classmethod
    def take(cls, trainer: Trainer, module: LightningModule) -> Self:
        """The present state."""
        return cls(
            copy.deepcopy(module.state_dict()),
            [copy.deepcopy(each.state_dict()["state"]) for each in trainer.optimizers],
            [copy.deepcopy(each.state_dict()) for each in _averages(trainer)],
        )

    def restore(self, trainer: Trainer, module: LightningModule) -> None:
        """Returns a training to this state."""
        module.load_state_dict(self.weights)
        for optimizer, state in zip(trainer.optimizers, self.optimizers, strict=True):
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": copy.deepcopy(state), "param_groups": groups})
        for average, state in zip(_averages(trainer), self.averages, strict=True):
            average.load_state_dict(state)

    def plain(self) -> SnapshotState:
        """The snapshot as it is stored in a checkpoint."""
        return SnapshotState(weights=self.weights, optimizers=self.optimizers, averages=self.averages)


def _averages(trainer: Trainer) -> list[Any]:
    """The models of averaged weights."""
    callbacks: list[Any] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    models = (each._average_model for each in callbacks if isinstance(each, WeightAveraging))  # pyright: ignore[reportPrivateUsage]
    return [model for model in models if model is not None]
