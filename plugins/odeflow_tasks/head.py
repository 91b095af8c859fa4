"""Heads: map features to outputs, such as decoded values or class logits."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

import odeflow as of
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
        """(…, inputs) ↦ (…, outputs)."""


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
