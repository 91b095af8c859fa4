"""Symbolic: what fields that are written down, and not networks, have in common."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import odeflow as of


def coefficient(value: float, trainable: bool) -> nn.Parameter:
    """A number in an equation.

    Args:
        value: Where learning begins.
        trainable: Whether it is learned.

    Returns:
        ().
    """
    return nn.Parameter(torch.tensor(float(value)), requires_grad=trainable)


def positive(owner: str, value: float, name: str, trainable: bool) -> nn.Parameter:
    """The logarithm of a number that stays positive while it is learned.

    Args:
        owner: Whose number it is, for messages.
        value: Where learning begins.
        name: The number's name, for messages.
        trainable: Whether it is learned.

    Returns:
        ().

    Raises:
        SettingError: The number is not positive.
    """
    if not value > 0:
        raise of.SettingError(f"{owner}: {name} must be positive; got {value}")
    return nn.Parameter(torch.tensor(float(value)).log(), requires_grad=trainable)


def square(owner: str, matrix: Sequence[Sequence[float]], dim: int) -> Tensor:
    """The matrix as a tensor.

    Args:
        owner: Whose matrix it is, for messages.
        matrix: Its rows.
        dim: The number d of its rows, and of its columns.

    Returns:
        (d, d).

    Raises:
        SettingError: It has another shape.
    """
    sizes = [len(row) for row in matrix]
    if sizes != [dim] * dim:
        raise of.SettingError(f"{owner}(dim={dim}): matrix must be {dim} rows of {dim} numbers; got rows of {sizes}")
    return torch.tensor(matrix, dtype=torch.get_default_dtype())


def components(owner: str, y: Tensor, names: str) -> tuple[Tensor, ...]:
    """The features of a state that have names, (…, d) ↦ d tensors (…).

    Args:
        owner: Whose state it is, for messages.
        y: (…, d).
        names: The d names, apart.

    Raises:
        StateError: There are not as many features as names.
    """
    count = len(names.split())
    if y.dim() == 0 or y.shape[-1] != count:
        raise of.StateError(f"{owner} takes states (…, {count}), of {names}; got {tuple(y.shape)}")
    return y.unbind(-1)
