"""Group norms by number of channels."""

from torch import nn

GROUPS, CHANNELS = 32, 4
"""Number of groups from 64 channels on, and the least number of channels of a group below."""


def group_norm(channels: int) -> nn.GroupNorm:
    """A group norm of the ODE-Net: 32 groups from 64 channels on, below as many as have at least four channels each.

    A group of one channel would remove its mean and scale, and with them most of what a narrow net knows about an
    image. If the number does not divide the channels, the next smaller one that does is taken.

    Source: 32 groups: Chen et al. (2018), "Neural Ordinary Differential Equations", as released in torchdiffeq's
    `odenet_mnist`.

    Args:
        channels: Number of channels.
    """
    most = GROUPS if channels >= 2 * GROUPS else max(channels // CHANNELS, 1)
    return nn.GroupNorm(max(count for count in range(1, most + 1) if channels % count == 0), channels)
