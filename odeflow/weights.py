"""Weights alone, as safetensors: small, safe to share, and enough to build their model again."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from odeflow.errors import CheckpointError
from odeflow.plain import mapping
from odeflow.units import Units

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
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in state.items()}
    told = {SPEC: spec} if units is None else {SPEC: spec, UNITS: units.plain()}
    save_file(tensors, str(path), metadata={name: json.dumps(value) for name, value in told.items()})


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
    _check(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            return json.loads((file.metadata() or {}).get(name, "null"))
    except (SafetensorError, ValueError) as problem:
        raise CheckpointError(f"{path} cannot be read as safetensors: {problem}") from problem


def read_into(module: nn.Module, path: str | Path) -> None:
    """Gives a module the weights of a file.

    Raises:
        CheckpointError: There is no such file, or its weights do not fit the module.
    """
    _check(path)
    try:
        module.load_state_dict(load_file(str(path)))
    except SafetensorError as problem:
        raise CheckpointError(f"{path} cannot be read as safetensors: {problem}") from problem
    except RuntimeError as problem:
        raise misfit(path, problem) from problem


def misfit(path: str | Path, problem: RuntimeError) -> CheckpointError:
    """The error for weights of other names or shapes than the model's, with torch's first two reasons."""
    reasons = [line.strip()[:200] for line in str(problem).splitlines()[1:]]
    more = f"; and {len(reasons) - 2} more" if len(reasons) > 2 else ""
    return CheckpointError(f"the weights of {path} do not fit the model: {'; '.join(reasons[:2])}{more}")


def _check(path: str | Path) -> None:
    if not Path(path).is_file():
        raise CheckpointError(f"there are no weights {path}")
