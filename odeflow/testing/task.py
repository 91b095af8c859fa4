"""The laws of tasks."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor

from odeflow.plugin.registry import build
from odeflow.testing.conformance import Check, all_of, checks_of, require

if TYPE_CHECKING:
    from odeflow.training.task import Task

STAGES = ("train", "val", "test")


@dataclass(frozen=True)
class Subject:
    """A task under test.

    Attributes:
        task: The task.
        batch: A batch of the task's data.
    """

    task: "Task"
    batch: Any

    def loss(self, stage: str, task: "Task | None" = None) -> Tensor:
        """The loss of the batch, with the same random numbers each time."""
        task = task or self.task
        with _unlogged(task), torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            task.train(stage == "train")
            return task.loss(self.batch, stage)


@contextmanager
def _unlogged(task: "Task") -> Generator[None]:
    """Disables logging, since there is no trainer."""
    with patch.object(task, "log"), patch.object(task, "log_dict"):
        yield


def task_checks(task: "Task", batch: Any) -> list[Check]:
    """The laws of tasks, each as a check: for `pytest.mark.parametrize("check", …, ids=str)`.

    Args:
        task: The task. Its weights are not changed.
        batch: A batch of the task's data plugin.
    """
    return checks_of(type(task).__name__, Subject(task, batch), LAWS)


check_task = all_of(task_checks)
"""Checks all of them, without pytest."""


def finite_scalar_loss(subject: Subject) -> None:
    """In each stage the loss is a finite scalar."""
    for stage in STAGES:
        loss = subject.loss(stage)
        require(
            loss.shape == () and bool(loss.isfinite()),
            wanted=f"one finite number as the loss of stage {stage}, of shape ()",
            got=f"{loss.tolist()!s:.80} of shape {tuple(loss.shape)}",
            look="the reduction at the end of `loss`",
        )


def every_parameter_is_trained(subject: Subject) -> None:
    """The training loss has a gradient for every parameter that requires one."""
    named = {name: param for name, param in subject.task.named_parameters() if param.requires_grad}
    found: tuple[Any, ...] = torch.autograd.grad(subject.loss("train"), list(named.values()), allow_unused=True)
    without = [name for name, gradient in zip(named, found, strict=True) if gradient is None]
    require(
        not without,
        wanted="a gradient for every parameter",
        got=f"none for {', '.join(without[:8])}",
        look="layers that `loss` does not use, and fields whose parameters are missing in the flow's `params`",
    )


def learning(subject: Subject) -> None:
    """A step along the negative gradient lowers the training loss of the batch."""
    task = subject.task
    params = [param for param in task.parameters() if param.requires_grad]
    kept = [param.detach().clone() for param in params]
    loss = subject.loss("train")
    start = float(loss.detach())
    gradients: tuple[Any, ...] = torch.autograd.grad(loss, params, allow_unused=True)
    size = sum(float(each.square().sum()) for each in gradients if each is not None)
    steps, losses = [1e-1, 1e-2, 1e-3, 1e-4], list[float]()
    with torch.no_grad():
        for step in steps:
            for param, old, gradient in zip(params, kept, gradients, strict=True):
                param.copy_(old if gradient is None else old - step / max(size, 1e-12) ** 0.5 * gradient)
            losses.append(float(subject.loss("train").detach()))
        for param, old in zip(params, kept, strict=True):
            param.copy_(old)
    require(
        min(losses) < start,
        wanted=f"a loss below {start:.6g} after a step along the negative gradient",
        got=", ".join(f"{loss:.6g} after one of size {step:g}" for step, loss in zip(steps, losses, strict=True)),
        look="the sign of the loss, and whether it is what its gradient belongs to",
    )


def sample_count(subject: Subject) -> None:
    """The number of samples is positive, as averages over an epoch require."""
    count = subject.task.sample_count(subject.batch)
    require(
        count > 0,
        wanted="a positive number of samples",
        got=str(count),
        look="`sample_count`, which by default is the length of the batch's first tensor",
    )


def spec(subject: Subject) -> None:
    """Rebuilt from its spec and weights, the task has the same loss, so that checkpoints can store it."""
    again = build(subject.task.spec)
    again.load_state_dict(subject.task.state_dict())
    losses = [float(subject.loss("val", task).detach()) for task in (subject.task, again)]
    require(
        abs(losses[0] - losses[1]) <= 1e-5 * max(abs(losses[0]), 1e-6),
        wanted=f"a loss of {losses[0]:.8g} from its spec and weights",
        got=f"{losses[1]:.8g}",
        look="what `loss` depends on that is neither an argument, nor a parameter, nor a buffer",
    )


LAWS: tuple[Callable[[Subject], None], ...] = (
    finite_scalar_loss,
    every_parameter_is_trained,
    learning,
    sample_count,
    spec,
)
