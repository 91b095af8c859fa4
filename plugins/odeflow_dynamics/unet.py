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

    The last `conditions` of the channels are not part of the image: each holds one number, the same at all pixels, that
    is given to every block beside the time. Their rates of change are zero.

    Source: Ronneberger et al. (2015), "U-Net"; blocks as in Ho et al. (2020), "Denoising Diffusion Probabilistic
    Models", appendix B.

    Args:
        channels: Number of channels C of the state, without conditions.
        hidden: Number of hidden channels at full resolution; a multiple of groups.
        depth: Number of downsamplings by 2.
        groups: Groups of each GroupNorm.
        attention: Number of heads of an attention over the pixels of the smallest images; 0 for none.
        embedding: Length of a learned embedding of time and conditions, given to every block; 0 for sines and cosines
            of the time themselves.
        conditions: Number of channels behind the state that are conditions, as of `Density`; they need an embedding.

    Raises:
        SettingError: The depth is not positive, hidden is not a multiple of groups, the number of channels of the
            smallest images not one of heads, or conditions have no embedding.
    """

    def __init__(
        self,
        channels: int,
        hidden: int = 32,
        depth: int = 2,
        groups: int = 8,
        attention: int = 0,
        embedding: int = 0,
        conditions: int = 0,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, channels=channels)
        of.check_least(self, 0, attention=attention, embedding=embedding, conditions=conditions)
        if depth < 1:
            raise of.SettingError(f"UNet: depth must be at least 1; got {depth}. For no halving, use ConvNet")
        if groups < 1 or hidden < 1 or hidden % groups:
            raise of.SettingError(f"UNet: hidden must be a positive multiple of groups; got {hidden} and {groups}")
        if conditions and not embedding:
            raise of.SettingError("UNet: conditions need an embedding; set embedding, to 64 for example")
        if attention and hidden * 2**depth % attention:
            raise of.SettingError(
                f"UNet: the {hidden * 2**depth} channels of the smallest images must be a multiple of attention; got "
                f"{attention}"
            )
        self.channels, self.width, self.depth = channels, channels + conditions, depth
        size = embedding or TIME_FEATURES
        pairs = list(itertools.pairwise(hidden * 2**level for level in range(depth + 1)))
        bottom = pairs[-1][1]
        self.time = TimeEmbedding(TIME_FEATURES)
        self.embedding = Embedding(conditions, embedding) if embedding else None
        self.first = nn.Conv2d(channels, hidden, 3, padding=1)
        self.down_blocks = nn.ModuleList(ResidualBlock(narrow, narrow, groups, size) for narrow, _ in pairs)
        self.downs = nn.ModuleList(nn.Conv2d(narrow, wide, 2, stride=2) for narrow, wide in pairs)
        self.middle = ResidualBlock(bottom, bottom, groups, size)
        self.attention = PixelAttention(bottom, attention, groups) if attention else None
        self.ups = nn.ModuleList(nn.ConvTranspose2d(wide, narrow, 2, stride=2) for narrow, wide in pairs[::-1])
        self.up_blocks = nn.ModuleList(ResidualBlock(2 * narrow, narrow, groups, size) for narrow, _ in pairs[::-1])
        self.norm = nn.GroupNorm(groups, hidden)
        self.last = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) ↦ (B, C, H, W), where C counts conditions.

        Raises:
            StateError: The state is not a batch of images with C channels and sides of at least 2^depth.
        """
        smallest = 2**self.depth
        if y.dim() != 4 or y.shape[1] != self.width or min(y.shape[2:]) < smallest:
            raise of.StateError(
                f"UNet(depth={self.depth}) takes images (B, {self.width}, H, W) with H and W of at least {smallest}; "
                f"got {tuple(y.shape)}: use larger images or a smaller depth"
            )
        features, x = self.time(t), self.first(y[:, : self.channels])
        if self.embedding is not None:
            features = self.embedding(features, y[:, self.channels :, 0, 0])
        skips: list[Tensor] = []
        for block, down in zip(self.down_blocks, self.downs, strict=True):
            skips.append(block(features, x))
            x = down(skips[-1])
        x = self.middle(features, x)
        x = x if self.attention is None else self.attention(x)
        for up, block in zip(self.ups, self.up_blocks, strict=True):
            skip = skips.pop()
            x = block(features, torch.cat([up(x, output_size=skip.shape[2:]), skip], dim=1))
        x = self.last(F.silu(self.norm(x)))
        return x if self.width == self.channels else torch.cat([x, torch.zeros_like(y[:, self.channels :])], dim=1)


class Embedding(nn.Module):
    """A perceptron on the features of the time and a linear map of the conditions.

    Args:
        conditions: Number of conditions c; may be 0.
        size: Length of the result.
    """

    def __init__(self, conditions: int, size: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(TIME_FEATURES, size), nn.SiLU(), nn.Linear(size, size))
        self.condition = nn.Linear(conditions, size, bias=False) if conditions else None

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """(TIME_FEATURES,) or (B, TIME_FEATURES), (B, c) ↦ (size,) or (B, size)."""
        time = self.time(features)
        return F.silu(time if self.condition is None else time + self.condition(condition))


class PixelAttention(nn.Module):
    """x + attention(norm(x)), where each pixel attends to all others.

    Args:
        channels: Channels of x, a multiple of heads.
        heads: Number of heads.
        groups: Groups of the GroupNorm.
    """

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(groups, channels)
        self.inputs, self.output = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) ↦ (B, channels, H, W)."""
        parts = self.inputs(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1))  # (B, 3, heads, size, HW)
        q, k, v = parts.mT.unbind(1)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)  # written out, since its derivative is differentiated
        return x + self.output((weights @ v).mT.reshape(x.shape))


class ResidualBlock(nn.Module):
    """x ↦ Sx + conv(σ(norm(conv(σ(norm(x)))) + Uφ(t))), where σ is SiLU and φ(t) are the features of the time.

    The time is added after the norm, which would cancel it in groups of one channel.

    Args:
        inputs: Channels of x.
        outputs: Channels of the result. If they differ, the shortcut S is a 1×1 convolution, otherwise the identity.
        groups: Groups of each GroupNorm.
        features: Number of features of the time.
    """

    def __init__(self, inputs: int, outputs: int, groups: int, features: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, inputs), nn.GroupNorm(groups, outputs)
        self.conv1, self.conv2 = (nn.Conv2d(size, outputs, 3, padding=1) for size in (inputs, outputs))
        self.time = nn.Linear(features, outputs, bias=False)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """(features,) or (B, features), (B, inputs, H, W) ↦ (B, outputs, H, W)."""
        inner = self.norm2(self.conv1(F.silu(self.norm1(x))))
        inner = inner + self.time(features)[..., None, None]
        return self.shortcut(x) + self.conv2(F.silu(inner))
