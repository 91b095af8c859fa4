"""Weights as safetensors: small, safe to share, and sufficient to rebuild their model."""

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from odeflow.errors import CheckpointError, PluginError
from odeflow.plugin.plugin import Plugin
from odeflow.plugin.spec import differences, mapping
from odeflow.training.files import replacing
from odeflow.training.units import Units

SUFFIX = ".safetensors"
SPEC, UNITS, CHECKSUM = "model", "units", "sha256"
"""Keys in the file's header of the model's spec, of its units, if known, and of their checksum, all as JSON."""
WEIGHTLESS = ("model.solver", "model.gradient")
"""Options of a model on which the names and shapes of its weights do not depend."""


def write(state: dict[str, Tensor], spec: dict[str, Any], path: str | Path, units: Units | None = None) -> None:
    """Writes weights together with their model's spec.

    Args:
        state: The weights by name.
        spec: The spec of the model, as returned by `Plugin.spec`.
        path: The file. Missing parent folders are created.
        units: The units of the training data.
    """
    tensors = {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}  # unshared
    entries = {SPEC: spec} if units is None else {SPEC: spec, UNITS: units.plain()}
    header = {name: json.dumps(value) for name, value in entries.items()}
    header[CHECKSUM] = json.dumps(_checksum(tensors, header))
    with replacing(path) as part:
        part.write_bytes(save(tensors, metadata=header))  # `save_file` makes a file that only its owner can read


def read_spec(path: str | Path) -> dict[str, Any]:
    """The spec of the weights' model.

    Raises:
        CheckpointError: The file does not exist, or its header contains no spec.
    """
    spec = mapping(_header(path, SPEC))
    if spec is None:
        raise CheckpointError(f"{path} does not say how its model was built: odeflow did not write it")
    return spec


def read_units(path: str | Path) -> Units | None:
    """The units of the training data; None if the file contains none.

    Raises:
        CheckpointError: The file does not exist, or its units are malformed.
    """
    units = _header(path, UNITS)
    return None if units is None else Units.of(units)


def _header(path: str | Path, name: str) -> Any:
    """The header's entry of a name, parsed from JSON; None if there is none."""
    with _reading(path), safe_open(str(path), framework="pt") as file:
        return json.loads((file.metadata() or {}).get(name, "null"))


def _checksum(state: dict[str, Tensor], header: dict[str, str]) -> str:
    """The sha256 of weights and of what the header says of their model."""
    found = hashlib.sha256("".join(header.get(name, "") for name in (SPEC, UNITS)).encode())
    for name, value in sorted(state.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def read_into(module: nn.Module, path: str | Path) -> None:
    """Loads the weights of a file into a module.

    Raises:
        CheckpointError: The file does not exist, was changed, or its weights do not match the module.
    """
    with _reading(path), safe_open(str(path), framework="pt") as file:
        header: dict[str, str] = file.metadata() or {}
        state = load_file(str(path))
    written = _header(path, CHECKSUM)  # files of earlier versions, or of others, have none
    if written is not None and written != _checksum(state, header):
        raise CheckpointError(f"{path} is damaged: its weights are not those that were written. Use another copy")
    fill(module, state, path, {SPEC: _header(path, SPEC)})


def fill(module: nn.Module, state: dict[str, Tensor], path: str | Path, specs: dict[str, Any] | None = None) -> None:
    """Loads weights into a module.

    Args:
        module: The module.
        state: The weights by name.
        path: Their file, for messages.
        specs: The specs in the file, for messages: of the "model", and of the "data".

    Raises:
        CheckpointError: The weights do not match the module.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as problem:
        ours = {}
        if isinstance(module, Plugin):
            with contextlib.suppress(PluginError):  # arguments that are no plain data
                ours = {SPEC: module.spec}
        raise misfit(path, problem, specs or {}, ours) from problem


def misfit(path: str | Path, problem: Exception, then: dict[str, Any], now: dict[str, Any]) -> CheckpointError:
    """The error for weights whose names or shapes do not match the model.

    Args:
        path: Their file.
        problem: What torch says; its first two reasons are told if the specs do not differ.
        then: The specs in the file, "model" and "data".
        now: Those of the model that is filled.
    """
    reasons: list[str] = []
    if then.get(SPEC) and now.get(SPEC):
        reasons = [each for each in differences(then[SPEC], now[SPEC], SPEC) if not each.startswith(WEIGHTLESS)]
        reasons = reasons or differences(then.get("data", {}), now.get("data", {}), "data")
    reasons = reasons or [line.strip()[:200] for line in str(problem).splitlines()[1:]]
    more = f"; and {len(reasons) - 2} more" if len(reasons) > 2 else ""
    return CheckpointError(
        f"the weights of {path} do not fit the model: {'; '.join(reasons[:2])}{more}. Give the model that they were "
        "trained with, or a checkpoint of this one; without a recipe and options, the file says what its model is"
    )


@contextlib.contextmanager
def _reading(path: str | Path) -> Generator[None]:
    """Converts the errors of reading a safetensors file.

    Raises:
        CheckpointError: The file does not exist, or is not in the safetensors format.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"there are no weights {path}")
    if zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is a checkpoint, not weights alone; name it *.ckpt")
    try:
        yield
    except (SafetensorError, OSError, ValueError, RecursionError) as problem:
        raise CheckpointError(f"{path} cannot be read as safetensors: {str(problem)[:200]}") from problem
