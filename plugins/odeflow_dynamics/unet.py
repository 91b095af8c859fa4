"""UNet: a multi-resolution vector field on images."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.time_embedding import TimeEmbedding

TIME_FEATURES = 32


class UNet(of.Dynamics):
    """Residual blocks that downsample images to 2^−depth of their size and upsample them again, with skip connections.

    The number of channels doubles with every downsampling. Sides that are odd on some level are rounded down there, and
    restored on the way up. For fields that depend on the whole image, as in generative
    models; `ConvNet` is cheaper if a neighbourhood suffices. For images of one channel there are 630,881 parameters by
    default, 161,073 with hidden=16.

    Source: Ronneberger et al. (2015), "U-Net"; blocks as in Ho et al. (2020), "Denoising Diffusion Probabilistic
    Models", appendix B, without attention.

    Args:
        channels: Number of channels C of the state.
        hidden: Number of hidden channels at full resolution; a multiple of groups.
        depth: Number of downsamplings by 2.
        groups: Groups of each GroupNorm.

    Raises:
        SettingError: The depth is not positive, or hidden is not a multiple of groups.
    """

    def __init__(self, channels: int, hidden: int = 32, depth: int = 2, groups: int = 8) -> None:
        super().__init__()
        of.check_least(self, 1, channels=channels)
        if depth < 1:
            raise of.SettingError(f"UNet: depth must be at least 1; got {depth}. For no halving, use ConvNet")
        if groups < 1 or hidden < 1 or hidden % groups:
            raise of.SettingError(f"UNet: hidden must be a positive multiple of groups; got {hidden} and {groups}")
        self.width, self.depth = channels, depth
        pairs = list(itertools.pairwise(hidden * 2**level for level in range(depth + 1)))
        bottom = pairs[-1][1]
        self.time = TimeEmbedding(TIME_FEATURES)
        self.first = nn.Conv2d(channels, hidden, 3, padding=1)
        self.down_blocks = nn.ModuleList(ResidualBlock(narrow, narrow, groups) for narrow, _ in pairs)
        self.downs = nn.ModuleList(nn.Conv2d(narrow, wide, 2, stride=2) for narrow, wide in pairs)
        self.middle = ResidualBlock(bottom, bottom, groups)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(wide, narrow, 2, stride=2) for narrow, wide in pairs[::-1])
        self.up_blocks = nn.ModuleList(ResidualBlock(2 * narrow, narrow, groups) for narrow, _ in pairs[::-1])
        self.norm = nn.GroupNorm(groups, hidden)
        self.last = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) ↦ (B, C, H, W).

        Raises:
            StateError: The state is not a batch of images with C channels and sides of at least 2^depth.
        """
        smallest = 2**self.depth
        if y.dim() != 4 or y.shape[1] != self.width or min(y.shape[2:]) < smallest:
            raise of.StateError(
                f"UNet(depth={self.depth}) takes images (B, {self.width}, H, W) with H and W of at least {smallest}; "
                f"got {tuple(y.shape)}: use larger images or a smaller depth"
            )
        features, x = self.time(t), self.first(y)
        skips: list[Tensor] = []
        for block, down in zip(self.down_blocks, self.downs, strict=True):
            skips.append(block(features, x))
            x = down(skips[-1])
        x = self.middle(features, x)
        for up, block in zip(self.ups, self.up_blocks, strict=True):
            skip = skips.pop()
            x = block(features, torch.cat([up(x, output_size=skip.shape[2:]), skip], dim=1))
        return self.last(F.silu(self.norm(x)))


class ResidualBlock(nn.Module):
    """x ↦ Sx + conv(σ(norm(conv(σ(norm(x)))) + Uφ(t))), where σ is SiLU and φ(t) are the features of the time.

    The time is added after the norm, which would cancel it in groups of one channel.

    Args:
        inputs: Channels of x.
        outputs: Channels of the result. If they differ, the shortcut S is a 1×1 convolution, otherwise the identity.
        groups: Groups of each GroupNorm.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, inputs), nn.GroupNorm(groups, outputs)
        self.conv1, self.conv2 = (nn.Conv2d(size, outputs, 3, padding=1) for size in (inputs, outputs))
        self.time = nn.Linear(TIME_FEATURES, outputs, bias=False)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """(TIME_FEATURES,), (B, inputs, H, W) ↦ (B, outputs, H, W)."""
        inner = self.norm2(self.conv1(F.silu(self.norm1(x))))
        inner = inner + self.time(features)[..., None, None]
        return self.shortcut(x) + self.conv2(F.silu(inner))
