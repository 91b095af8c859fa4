"""Transformer: a vector field on sequences of tokens, or on patches of images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.clock import as_feature
from odeflow_dynamics.perceptron import perceptron
from odeflow_dynamics.time_embedding import TimeEmbedding

TIME_FEATURES = 32
PLACE_FEATURES = 32


class Transformer(of.Dynamics):
    """Attention and perceptron blocks on tokens or image patches, conditioned on their positions and the time.

    The number of tokens may vary, and so may the size of images, as long as the patches fit. For tokens of length 3
    there are 85,443 parameters by default.

    Source: Vaswani et al. (2017), "Attention Is All You Need", with the norms first; patches as in Dosovitskiy et al.
    (2021), "An Image is Worth 16×16 Words"; time as in Peebles & Xie (2023), "Scalable Diffusion Models with
    Transformers".

    Args:
        dim: Length of a token; with patches, number of channels C of the images.
        hidden: Hidden width h.
        num_heads: Number of attention heads, a divisor of h.
        num_layers: Number of blocks.
        expansion: Width of the hidden layer in each block's perceptron, as a multiple of h.
        patch: Side p of the square patches of images; None for tokens.
        fused: Use PyTorch's fused attention. It is faster and needs less memory from some hundreds of tokens on, but
            only supports first derivatives in reverse mode. Regularisers, divergences and `torch.func` may need others.

    Raises:
        SettingError: A number is not positive, or num_heads does not divide hidden.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 64,
        num_heads: int = 4,
        num_layers: int = 2,
        expansion: int = 2,
        patch: int | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__()
        of.check_least(
            self,
            1,
            dim=dim,
            hidden=hidden,
            num_heads=num_heads,
            num_layers=num_layers,
            expansion=expansion,
            patch=patch,
        )
        if hidden % num_heads:
            raise of.SettingError(f"Transformer: num_heads must divide hidden; got {num_heads} and {hidden}")
        self.width, self.patch = dim, patch
        length = dim * (patch or 1) ** 2
        self.axes = 1 if patch is None else 2
        self.time = TimeEmbedding(TIME_FEATURES)
        self.place = TimeEmbedding(PLACE_FEATURES, shortest=4, longest=4096)
        self.locate = nn.Linear(self.axes * PLACE_FEATURES, hidden, bias=False)
        self.embed = nn.Linear(length, hidden)
        self.blocks = nn.ModuleList(
            TransformerBlock(hidden, num_heads, expansion * hidden, fused) for _ in range(num_layers)
        )
        self.unembed = nn.Linear(hidden, length)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, N, dim) ↦ (…, N, dim), or (B, C, H, W) ↦ (B, C, H, W) with patches.

        Raises:
            StateError: The state is not a sequence of such tokens, or not a batch of images with C channels and sides
                divisible by the patch.
        """
        if self.patch is None:
            if y.dim() < 2 or y.shape[-1] != self.width:
                wanted = f"Transformer(dim={self.width}) takes tokens (…, N, {self.width})"
                raise of.StateError(f"{wanted}; got {tuple(y.shape)}. For images, set patch")
            return self._field(t, y, (y.shape[-2],))
        if y.dim() != 4 or y.shape[1] != self.width or y.shape[2] % self.patch or y.shape[3] % self.patch:
            raise of.StateError(
                f"Transformer(patch={self.patch}) takes images (B, {self.width}, H, W) with H and W divisible by "
                f"{self.patch}; got {tuple(y.shape)}: pad the images or use another patch"
            )
        patches = F.pixel_unshuffle(y, self.patch)  # (B, C p², H/p, W/p)
        sizes = patches.shape[2:]
        dy = self._field(t, patches.flatten(2).mT, sizes)
        return F.pixel_shuffle(dy.mT.unflatten(2, sizes), self.patch)

    def _field(self, t: Tensor, tokens: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """The field at tokens (…, N, length) on a grid of these sizes."""
        features = self.time(as_feature(t, tokens).squeeze(-1))
        x = self.embed(tokens) + self._places(sizes, tokens.device)
        for block in self.blocks:
            x = block(features, x)
        return self.unembed(_normalised(x))

    def _places(self, sizes: tuple[int, ...], device: torch.device) -> Tensor:
        """(N, hidden), the position embeddings added to the tokens."""
        grid = torch.cartesian_prod(*(torch.arange(size, device=device) for size in sizes))
        return self.locate(self.place(grid.view(-1, self.axes)).flatten(1))


class TransformerBlock(nn.Module):
    """x ↦ x + attention(norm(x)), then x ↦ x + perceptron(norm(x)), where the time scales and shifts both norms.

    Args:
        width: Width of the tokens.
        num_heads: Number of attention heads.
        inner: Width of the perceptron's hidden layer.
        fused: Whether PyTorch's fused attention is used.
    """

    def __init__(self, width: int, num_heads: int, inner: int, fused: bool) -> None:
        super().__init__()
        self.num_heads, self.fused = num_heads, fused
        self.time = nn.Linear(TIME_FEATURES, 4 * width)
        self.heads = nn.Linear(width, 3 * width, bias=False)
        self.join = nn.Linear(width, width)
        self.perceptron = perceptron(width, [inner], width, nn.GELU)

    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """(TIME_FEATURES,) or (B, 1, …, TIME_FEATURES), (…, N, width) ↦ (…, N, width)."""
        scale1, shift1, scale2, shift2 = self.time(features).chunk(4, dim=-1)
        x = x + self._attention(_normalised(x) * (1 + scale1) + shift1)
        return x + self.perceptron(_normalised(x) * (1 + scale2) + shift2)

    def _attention(self, x: Tensor) -> Tensor:
        parts = self.heads(x).unflatten(-1, (3, self.num_heads, -1))  # (…, N, 3, heads, width / heads)
        query, key, value = parts.movedim(-3, 0).transpose(-3, -2)  # each (…, heads, N, width / heads)
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:  # elementary operations support all derivatives, and are no slower on few tokens
            mixed = (query * query.shape[-1] ** -0.5 @ key.mT).softmax(-1) @ value
        return self.join(mixed.transpose(-3, -2).flatten(-2))


def _normalised(x: Tensor) -> Tensor:
    """Layer norm without weights, as a group norm of one group.

    PyTorch's layer norm silently has wrong derivatives beyond the first in forward mode
    (https://github.com/pytorch/pytorch/issues/196700); its group norm is correct.
    """
    return F.group_norm(x.flatten(0, -2), 1).view_as(x)
