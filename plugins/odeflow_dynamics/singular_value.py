"""SingularValue: how much a weight stretches at most, by power iteration."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST = 50  # iterations from a random start
FURTHER = 3  # iterations after a change of the weight


class SingularValue(nn.Module):
    """An estimate of the largest singular value of a weight W, σ = ‖W v‖ with v from power iteration.

    W is seen as a matrix with a row for each entry of its first dimension. σ never exceeds the true value. v stands
    still but for `update`, so that σ is a differentiable function of W, whose gradient is u vᵀ with u = W v/‖W v‖.

    Source: Miyato et al. (2018), "Spectral Normalization for Generative Adversarial Networks", algorithm 1.

    Args:
        weight: (rows, …), the weight.
    """

    v: Tensor
    image: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        start = torch.randn(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        self.register_buffer("v", F.normalize(start, dim=0))
        self.register_buffer("image", torch.full_like(matrix[:, 0], torch.nan))
        self.update(weight, FIRST)

    def forward(self, weight: Tensor) -> Tensor:
        """σ, of shape ()."""
        return torch.linalg.vector_norm((weight.flatten(1) * self.v).sum(1))  # autocast leaves these alone

    def update(self, weight: Tensor, iterations: int = FURTHER) -> None:
        """Improves v, unless the weight is what it was at the last update.

        So several solves between two steps of an optimizer use the same σ, and what the first of them computed can be
        computed again in the backward pass.
        """
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            image = matrix @ self.v
            if torch.equal(image, self.image):
                return
            for _ in range(iterations):
                back = F.normalize(matrix.t() @ F.normalize(image, dim=0), dim=0)
                self.v = torch.where(back.any(), back, self.v)  # a weight of zeros has no direction; it may get one
                image = matrix @ self.v
            self.image = image
