"""Checkpoints that contain their model's spec, and `load`, which rebuilds the model."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from odeflow.config.checkpoints import damage, other_than
from odeflow.errors import CheckpointError, PluginError
from odeflow.plugin import registry
from odeflow.plugin.spec import class_spec, is_plain, mapping, path_of, shown
from odeflow.training import contents as form
from odeflow.training import weights
from odeflow.training.files import replacing, unwritten
from odeflow.training.task import KEY, Task, stored_data, stored_units


def read(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint, read without executing code from it.

    Raises:
        CheckpointError: The file does not exist, is not a checkpoint, is damaged, or is not as odeflow writes it.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    _check_sums(path)
    try:
        contents = mapping(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as problem:  # torch raises many types for damaged files
        reason = str(problem).strip().partition("\n")[0].partition(" In PyTorch 2.6")[0]
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {type(problem).__name__}: {reason}") from problem
    if contents is None:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: it holds no keys")
    return _checked(contents, path)


def _checked(contents: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint.

    Raises:
        CheckpointError: They are not as odeflow writes them.
    """
    wrong = form.unlike(contents, path_of(stored_data(contents)).rpartition(".")[2])
    if wrong is not None:
        raise CheckpointError(f"{path} is not as odeflow writes it: {wrong}. {other_than(path)}")
    return contents


def require(contents: dict[str, Any], path: str | Path, resume: bool) -> None:
    """Checks that a checkpoint has what a run needs beside the structure that `read` checks.

    Args:
        contents: The contents of the checkpoint.
        path: Path of the checkpoint, for messages.
        resume: Whether its run is to be resumed.

    Raises:
        CheckpointError: A part is missing.
    """
    state(contents, path)
    absent = [key for key in (form.RESUMED if resume else form.EVALUATED) if key not in contents]
    if absent:
        raise CheckpointError(
            f"{path} holds weights, but no {', '.join(absent)}, which "
            f"{'resuming a run' if resume else 'a checkpoint of a run'} needs. Use its weights by --weights {path}, "
            "without --ckpt_path"
        )


def _check_sums(path: str | Path) -> None:
    """Verifies the checksums of a checkpoint's parts.

    Raises:
        CheckpointError: A checksum does not match, or the parts would be larger than the file.
    """
    wrong = damage(path)
    if wrong is not None:
        raise CheckpointError(f"{path} {wrong}. Use another copy")


class Checkpoints(TorchCheckpointIO):
    """Checkpoint IO of the command line's trainer: writes are atomic, and reads verify checksums."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint. An existing file is replaced only once the new one is on disk.

        Raises:
            OdeflowError: The file cannot be written.
        """
        if "://" in str(path):  # a remote file
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with replacing(path) as part:
                torch.save(checkpoint, part)
        except RuntimeError as problem:  # raised by torch on a full disk
            raise unwritten(path, problem) from problem

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The contents of a checkpoint, read without executing code from it, whatever the trainer asks for.

        Raises:
            CheckpointError: The checkpoint is damaged, or not as odeflow writes it.
        """
        if "://" not in str(path):
            _check_sums(path)
        return _checked(super().load_checkpoint(path, map_location, weights_only=True), path)


def specs(path: str | Path) -> dict[str, Any]:
    """The specs stored in a checkpoint: "model", and "data" if it was trained on a data plugin; or in exported weights.

    Raises:
        CheckpointError: The file contains no valid specs.
    """
    if Path(path).suffix == weights.SUFFIX:
        return {"model": weights.read_spec(path)}
    stored = mapping(read(path).get(KEY))
    if stored is None or stored.get("model") is None:
        raise CheckpointError(
            f"{path} does not say how its model was built: it was not written by an odeflow Task, "
            "or the task's arguments were not plain data. On the command line, name the recipe by -c"
        )
    found = {key: stored[key] for key in ("model", "data") if key in stored}
    for key, spec in found.items():
        if class_spec(spec) is None or not isinstance(spec["class_path"], str) or not is_plain(spec):
            raise CheckpointError(f"{path} does not say how its {key} was built: its spec is {shown(spec)}")
    return found


def state(contents: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The weights in a checkpoint.

    Args:
        contents: The contents of the checkpoint.
        path: Path of the checkpoint, for messages.

    Raises:
        CheckpointError: The checkpoint contains no weights.
    """
    found = mapping(contents.get("state_dict"))
    if found is None or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{path} holds no weights: its state_dict must be tensors by name; got {shown(found)}")
    return found


def load(path: str | Path, plugins: Iterable[str] = ()) -> Task:
    """Rebuilds a task from a checkpoint or from exported weights, in evaluation mode and on the CPU.

    Args:
        path: A checkpoint of an odeflow `Task`, or a file written by `odeflow export`.
        plugins: Files, folders or modules of plugins that are not installed.

    Returns:
        The trained task.

    Raises:
        CheckpointError: The file is not such a checkpoint, or its weights do not match its model's spec.
        PluginError: A required plugin is not registered.
    """
    registry.discover(plugins)
    task = registry.build(specs(path)["model"])
    if not isinstance(task, Task):
        raise PluginError(f"{path} describes a {type(task).__name__}, which is no Task")
    return restore(task, path)


def restore(task: Task, path: str | Path) -> Task:
    """Loads the weights and units of a file into a task, and returns it in evaluation mode.

    Raises:
        CheckpointError: The file is no checkpoint and no exported weights, or its weights do not match the task.
    """
    if Path(path).suffix != weights.SUFFIX:
        task.data_spec = stored_data(read(path))
    begin_with(task, path)
    return task.eval()


def begin_with(task: Task, path: str | Path) -> None:
    """Loads the weights and units of a checkpoint or of exported weights into a task, whose training begins anew.

    Raises:
        CheckpointError: The file is neither, or its weights do not match the task.
    """
    if Path(path).suffix == weights.SUFFIX:
        weights.read_into(task, path)
        task.units = weights.read_units(path)
        return
    contents = read(path)
    weights.fill(task, state(contents, path), path, mapping(contents.get(KEY)))
    task.units = stored_units(contents)
