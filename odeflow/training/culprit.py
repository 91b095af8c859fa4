"""Where numbers cease to be finite: parameters, gradients and layers, by name."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

if TYPE_CHECKING:
    from odeflow.training.task import Task

NAMED = 3
"""Maximum number of parameters that are named."""


def broken_parameters(module: nn.Module) -> str:
    """The names of the parameters that are not finite; "" if all are."""
    return _listed([name for name, each in module.named_parameters() if not bool(each.isfinite().all())])


def broken_gradients(module: nn.Module) -> str:
    """The names of the parameters whose gradients are not finite; "" if all are."""
    found = ((name, each.grad) for name, each in module.named_parameters())
    return _listed([name for name, grad in found if grad is not None and not bool(grad.isfinite().all())])


def broken_layer(task: "Task", batch: Any) -> str:
    """The name of the layer that first turns finite numbers into others in the loss of a batch; "" if none does.

    The loss is evaluated again. Buffers, logged values and random numbers of the run are unaffected.
    """
    found: list[str] = []

    names = {each: name for name, each in task.named_modules() if name}

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        if not found and _finite(inputs) and not _finite(output):
            found.append(names[module])

    handles = [each.register_forward_hook(look) for each in names]
    try:
        with _unchanged(task), isolate_rng(), torch.no_grad(), suppress(Exception):  # the loss may fail again
            task.loss(batch, "train")
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


@contextmanager
def _unchanged(task: "Task") -> Generator[None]:
    """Discards what is logged meanwhile, and restores the buffers."""
    restore = keep_buffers(task)
    task.log = task.log_dict = _ignored  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        del task.log, task.log_dict
        restore()


def keep_buffers(module: nn.Module) -> Callable[[], None]:
    """Copies a module's buffers, such as moving statistics; gives a function that restores them."""
    kept = [(each, each.clone()) for each in module.buffers()]

    def restore() -> None:
        for buffer, value in kept:
            buffer.copy_(value)

    return restore


def _ignored(*args: Any, **kwargs: Any) -> None:
    return


def _finite(value: Any) -> bool:
    """Whether all tensors in a value are finite."""
    if isinstance(value, Tensor):
        return bool(value.isfinite().all())
    if isinstance(value, (tuple, list)):
        return all(map(_finite, value))  # pyright: ignore[reportUnknownArgumentType]
    return True


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
