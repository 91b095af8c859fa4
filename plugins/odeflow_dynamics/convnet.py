"""ConvNet: the convolutional vector field of the ODE-Net."""

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.clock import as_feature
from odeflow_dynamics.group_norm import group_norm


class ConvNet(of.Dynamics):
    """Norm–ReLU–conv twice, then norm. The time is an additional input channel of each 3×3 convolution.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", section 3, as released in torchdiffeq's
    `odenet_mnist`. With 64 channels it has 75,392 parameters.

    Args:
        channels: Number of channels C of the state.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        of.check_least(self, 1, channels=channels)
        self.width = channels
        self.norm1, self.norm2, self.norm3 = (group_norm(channels) for _ in range(3))
        self.conv1, self.conv2 = (nn.Conv2d(channels + 1, channels, 3, padding=1) for _ in range(2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) ↦ (B, C, H, W).

        Raises:
            StateError: The state is not a batch of images with C channels.
        """
        if y.dim() != 4 or y.shape[1] != self.width:
            raise of.StateError(f"ConvNet takes images (B, {self.width}, H, W); got {tuple(y.shape)}")
        time = as_feature(t, y).expand(y.shape[0], 1, *y.shape[2:])
        y = self.conv1(torch.cat([time, self.norm1(y).relu()], dim=1))
        y = self.conv2(torch.cat([time, self.norm2(y).relu()], dim=1))
        return self.norm3(y)
