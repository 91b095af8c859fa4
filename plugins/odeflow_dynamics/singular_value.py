"""SingularValue: the largest singular value of a weight, by power iteration."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST = 50  # iterations from a random vector
FURTHER = 3  # iterations after a change of the weight


class SingularValue(nn.Module):
    """An estimate of the largest singular value of a weight W: σ = ‖W v‖ with v from power iteration.

    W is flattened to a matrix with a row for each entry of its first dimension. σ never exceeds the true value. Only
    `update` changes v, so that σ is a differentiable function of W with gradient u vᵀ, u = W v/‖W v‖.

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
        return torch.linalg.vector_norm((weight.flatten(1) * self.v).sum(1))  # unaffected by autocast

    def update(self, weight: Tensor, iterations: int = FURTHER) -> None:
        """Improves v, if the weight has changed since the last update.

        All solves between two optimizer steps thus use the same σ, and the backward pass can recompute the forward
        pass.
        """
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            image = matrix @ self.v
            if torch.equal(image, self.image):
                return
            for _ in range(iterations):
                back = F.normalize(matrix.t() @ F.normalize(image, dim=0), dim=0)
                self.v = torch.where(back.any(), back, self.v)  # a zero weight has no direction yet
                image = matrix @ self.v
            self.image = image
