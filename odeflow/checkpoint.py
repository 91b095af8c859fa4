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
        contents = mapping(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as problem:  # torch raises as many kinds as there are ways to be damaged
        reason = str(problem).strip().partition("\n")[0].partition(" In PyTorch 2.6")[0]
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {type(problem).__name__}: {reason}") from problem
    if contents is None:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: it holds no keys")
    return contents


def specs(path: str | Path) -> dict[str, Any]:
    """The specs stored in a checkpoint: "model", and "data" if it was trained on a data plugin.

    Raises:
        CheckpointError: It holds none.
    """
    stored = mapping(read(path).get(KEY))
    if stored is None or "model" not in stored:
        raise CheckpointError(
            f"{path} does not say how its model was built: it was not written by an odeflow Task, "
            "or the task's arguments were not plain data. On the command line, a recipe given by -c can say it"
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
        raise misfit(path, problem) from problem
    return task.eval()


def misfit(path: str | Path, problem: RuntimeError) -> CheckpointError:
    """The error for weights of other names or shapes than the model's, with torch's first two reasons."""
    reasons = [line.strip()[:200] for line in str(problem).splitlines()[1:]]
    more = f"; and {len(reasons) - 2} more" if len(reasons) > 2 else ""
    return CheckpointError(f"the weights of {path} do not fit the model: {'; '.join(reasons[:2])}{more}")
