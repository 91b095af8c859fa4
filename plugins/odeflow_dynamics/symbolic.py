"""Helpers for fields given by formulas."""

from collections.abc import Sequence

import torch
from torch import Tensor

import odeflow as of


def square(owner: str, matrix: Sequence[Sequence[float]], dim: int) -> Tensor:
    """The matrix as a tensor.

    Args:
        owner: Name of the class, for messages.
        matrix: The rows.
        dim: The number d of rows and columns.

    Returns:
        (d, d).

    Raises:
        SettingError: The matrix is not d × d.
    """
    sizes = [len(row) for row in matrix]
    if sizes != [dim] * dim:
        raise of.SettingError(f"{owner}(dim={dim}): matrix must be {dim} rows of {dim} numbers; got rows of {sizes}")
    return torch.tensor(matrix, dtype=torch.get_default_dtype())


def components(owner: str, y: Tensor, names: str) -> tuple[Tensor, ...]:
    """The named features of a state, (…, d) ↦ d tensors (…).

    Args:
        owner: Name of the class, for messages.
        y: (…, d).
        names: The d names, separated by spaces.

    Raises:
        StateError: The number of features differs from that of the names.
    """
    count = len(names.split())
    if y.dim() == 0 or y.shape[-1] != count:
        raise of.StateError(f"{owner} takes states (…, {count}), of {names}; got {tuple(y.shape)}")
    return y.unbind(-1)
