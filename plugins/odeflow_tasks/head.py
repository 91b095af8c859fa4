"""Heads: map features to outputs, such as decoded values or class logits."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.group_norm import group_norm
from odeflow_dynamics.perceptron import perceptron


class Head(of.Plugin, nn.Module, ABC):
    """A map from features to outputs. The task knows the sizes and calls `build` once, before use."""

    kind = "head"

    @abstractmethod
    def build(self, inputs: int, outputs: int) -> None:
        """Builds the layers.

        Args:
            inputs: Number of features.
            outputs: Number of outputs.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) ↦ (…, outputs), or images (B, inputs, H, W) ↦ (B, outputs)."""


class Perceptron(Head):
    """A multilayer perceptron with SiLU activations.

    Args:
        hidden: Widths of the hidden layers; a linear map if empty.

    Raises:
        SettingError: A width is not positive.
    """

    layers: nn.Sequential

    def __init__(self, hidden: Sequence[int] = (20,)) -> None:
        super().__init__()
        of.check_least(self, 1, hidden=hidden)
        self.hidden = tuple(hidden)

    def build(self, inputs: int, outputs: int) -> None:
        self.layers = perceptron(inputs, self.hidden, outputs, nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class LinearHead(Head):
    """ReLU, then a linear layer."""

    layers: nn.Sequential

    def build(self, inputs: int, outputs: int) -> None:
        self.layers = nn.Sequential(nn.ReLU(), nn.Linear(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class PooledHead(Head):
    """Group norm, ReLU and the mean over all pixels of an image, then a linear layer.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", section 3, as released in torchdiffeq's
    `odenet_mnist`.
    """

    layers: nn.Sequential

    def build(self, inputs: int, outputs: int) -> None:
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.layers = nn.Sequential(group_norm(inputs), nn.ReLU(), *pool, nn.Linear(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
