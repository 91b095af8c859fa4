"""Checkpoints that rebuild their model: what is written into them, and `load`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from odeflow import registry
from odeflow.errors import CheckpointError, PluginError
from odeflow.plain import mapping
from odeflow.task import KEY, Task


def read(path: str | Path) -> dict[str, Any]:
    """A checkpoint's contents, read without running code from it.

    Raises:
        CheckpointError: There is no such file, or it is no checkpoint.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {problem}") from problem


def specs(path: str | Path) -> dict[str, Any]:
    """The specs stored in a checkpoint: "model", and "data" if it was trained on a data plugin.

    Raises:
        CheckpointError: It holds none.
    """
    stored = mapping(read(path).get(KEY))
    if stored is None or "model" not in stored:
        raise CheckpointError(
            f"{path} does not say how its model was built: it was not written by an odeflow Task, "
            "or the task's arguments were not plain data"
        )
    return {key: stored[key] for key in ("model", "data") if key in stored}


def load(path: str | Path, plugins: Iterable[str] = ()) -> Task:
    """The task of a checkpoint, rebuilt with its weights, in evaluation mode and on the CPU.

    Args:
        path: A checkpoint written while an odeflow `Task` was trained.
        plugins: Files, folders or modules of plugins that are not installed.

    Returns:
        The task, as it was trained.

    Raises:
        CheckpointError: The file is no such checkpoint, or its weights do not fit the model that it describes.
        PluginError: A plugin that it needs is not registered.
    """
    registry.discover(plugins)
    task = registry.build(specs(path)["model"])
    if not isinstance(task, Task):
        raise PluginError(f"{path} describes a {type(task).__name__}, which is no Task")
    try:
        task.load_state_dict(read(path)["state_dict"])
    except RuntimeError as problem:
        raise CheckpointError(f"the weights of {path} do not fit the model that it describes: {problem}") from problem
    return task.eval()
