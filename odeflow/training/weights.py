"""Weights alone, as safetensors: small, safe to share, and enough to build their model again."""

import contextlib
import json
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from odeflow.errors import CheckpointError
from odeflow.plugin.spec import mapping
from odeflow.training.files import replacing
from odeflow.training.units import Units

SUFFIX = ".safetensors"
SPEC, UNITS = "model", "units"
"""Under which the file's header keeps the spec of the model, and the units of its data if they are known, as JSON."""


def write(state: dict[str, Tensor], spec: dict[str, Any], path: str | Path, units: Units | None = None) -> None:
    """Writes weights and how their model is built.

    Args:
        state: The weights by name.
        spec: The model's, as `Plugin.spec` gives it.
        path: The file; folders on the way are made.
        units: Of the data that the model was trained on.
    """
    tensors = {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}  # none shared
    told = {SPEC: spec} if units is None else {SPEC: spec, UNITS: units.plain()}
    with replacing(path) as part:
        save_file(tensors, part, metadata={name: json.dumps(value) for name, value in told.items()})


def read_spec(path: str | Path) -> dict[str, Any]:
    """The spec of the model whose weights these are.

    Raises:
        CheckpointError: There is no such file, or it does not say.
    """
    spec = mapping(_told(path, SPEC))
    if spec is None:
        raise CheckpointError(f"{path} does not say how its model was built: odeflow did not write it")
    return spec


def read_units(path: str | Path) -> Units | None:
    """The units of the data that these weights were trained on; None if the file does not say.

    Raises:
        CheckpointError: There is no such file, or it cannot be understood.
    """
    units = _told(path, UNITS)
    return None if units is None else Units.of(units)


def _told(path: str | Path, name: str) -> Any:
    """What the file's header says under a name; None if nothing."""
    with _reading(path), safe_open(str(path), framework="pt") as file:
        return json.loads((file.metadata() or {}).get(name, "null"))


def read_into(module: nn.Module, path: str | Path) -> None:
    """Gives a module the weights of a file.

    Raises:
        CheckpointError: There is no such file, or its weights do not fit the module.
    """
    with _reading(path):
        state = load_file(str(path))
    fill(module, state, path)


def fill(module: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Gives a module weights by name.

    Args:
        module: The module.
        state: The weights.
        path: Where they come from, for messages.

    Raises:
        CheckpointError: They do not fit the module.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as problem:
        raise misfit(path, problem) from problem


def misfit(path: str | Path, problem: Exception) -> CheckpointError:
    """The error for weights of other names or shapes than the model's, with torch's first two reasons."""
    reasons = [line.strip()[:200] for line in str(problem).splitlines()[1:]]
    more = f"; and {len(reasons) - 2} more" if len(reasons) > 2 else ""
    return CheckpointError(f"the weights of {path} do not fit the model: {'; '.join(reasons[:2])}{more}")


@contextlib.contextmanager
def _reading(path: str | Path) -> Generator[None]:
    """Says what is wrong with a file that is read as safetensors.

    Raises:
        CheckpointError: There is no such file, or it is something else, such as a checkpoint.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"there are no weights {path}")
    if zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} is a checkpoint, not weights alone: give it by --ckpt_path, or write its weights to a file "
            f"*{SUFFIX} by odeflow export"
        )
    try:
        yield
    except (SafetensorError, OSError, ValueError, RecursionError) as problem:
        raise CheckpointError(f"{path} cannot be read as safetensors: {str(problem)[:200]}") from problem
