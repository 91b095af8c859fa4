"""Heads: from the features of a model to its outputs, such as decoded values or the logits of classes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.perceptron import perceptron


class Head(of.Plugin, nn.Module, ABC):
    """A map of features to outputs. Its task knows the sizes, and calls `build` once, before anything else."""

    kind = "head"

    @abstractmethod
    def build(self, inputs: int, outputs: int) -> None:
        """Makes the layers.

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
        hidden: Widths of the hidden layers; a linear map where there are none.

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
