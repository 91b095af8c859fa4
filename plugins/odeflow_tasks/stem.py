"""Stems: map an input to the initial state of a classifier's flow."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.group_norm import group_norm


class Stem(of.Plugin, nn.Module, ABC):
    """Maps an input to the initial state of a flow. The task knows the sizes and calls `build` once, before use.

    Args:
        width: Channels or features of the state; by default those of the flow's input. Required without a flow.

    Attributes:
        images: Whether states are images (B, width, H, W); otherwise they are vectors (B, width).

    Raises:
        SettingError: The width is not positive.
    """

    kind = "stem"
    images: ClassVar[bool] = False

    def __init__(self, width: int | None = None) -> None:
        super().__init__()
        of.check_least(self, 1, width=width)
        self.width = width

    @abstractmethod
    def build(self, shape: Sequence[int], width: int) -> None:
        """Builds the layers.

        Args:
            shape: Shape of an input, without the batch.
            width: Channels or features of the state.

        Raises:
            SettingError: The stem does not support inputs of this shape.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, *shape) ↦ (B, width, H, W), or (B, width) for vectors."""


class ConvStem(Stem):
    """A 3×3 convolution, then 4×4 convolutions of stride 2, each after a group norm and ReLU.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", section 3, as released in torchdiffeq's
    `odenet_mnist`.

    Args:
        downsample: Number of convolutions of stride 2.
        width: Number of channels of the state, as in `Stem`.

    Raises:
        SettingError: An option is out of range.
    """

    images = True
    layers: nn.Sequential

    def __init__(self, downsample: int = 2, width: int | None = None) -> None:
        super().__init__(width)
        of.check_least(self, 0, downsample=downsample)
        self.downsample = downsample

    def build(self, shape: Sequence[int], width: int) -> None:
        if len(shape) != 3:
            raise of.SettingError(f"ConvStem needs images of shape (C, H, W); got {tuple(shape)}. Use FlatStem")
        layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3)]
        for _ in range(self.downsample):
            layers += [group_norm(width), nn.ReLU(), nn.Conv2d(width, width, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class FlatStem(Stem):
    """A linear layer on all values of an input."""

    layers: nn.Sequential

    def build(self, shape: Sequence[int], width: int) -> None:
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
