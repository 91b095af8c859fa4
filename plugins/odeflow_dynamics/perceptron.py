"""Multilayer perceptrons, and activations by name."""

import itertools
from collections.abc import Sequence

from torch import nn

import odeflow as of

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def perceptron(inputs: int, hidden: Sequence[int], outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    """W_L σ(… σ(W_1 x + b_1) …) + b_L; a linear map without hidden layers.

    Args:
        inputs: Length of x.
        hidden: Widths of the hidden layers.
        outputs: Length of the result.
        activation: The class of σ.
    """
    sizes = [inputs, *hidden]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


def activation_of(owner: of.Plugin, name: str) -> type[nn.Module]:
    """The activation class of a name.

    Raises:
        SettingError: The name is unknown.
    """
    if name not in ACTIVATIONS:
        raise of.SettingError(
            f"{type(owner).__name__} knows no activation {name!r}; choose from {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]
