"""Augmentation: random changes of images that keep their class."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def random_affine(
    images: Tensor,
    degrees: float = 10,
    shift: float = 2,
    scale: float = 0.1,
    shear: float = 5,
    dark: float | Tensor = 0.0,
) -> Tensor:
    """Images rotated, shifted, scaled and sheared at random, with bilinear interpolation; new pixels are dark.

    Args:
        images: (B, C, H, W).
        degrees: Largest rotation.
        shift: Largest shift, in pixels.
        scale: Largest change of scale.
        shear: Largest shear, in degrees.
        dark: The value of new pixels, or that of each channel, (C, 1, 1).

    Returns:
        (B, C, H, W).
    """
    count, _, height, width = images.shape

    def uniform(largest: float) -> Tensor:
        return (2 * torch.rand(count, device=images.device) - 1) * largest

    angle, slant, size = uniform(math.radians(degrees)), uniform(math.radians(shear)).tan(), 1 + uniform(scale)
    cos, sin, aspect = angle.cos() / size, angle.sin() / size, height / width  # of the grid's coordinates, −1 to 1
    first = torch.stack([cos, (-sin + slant * cos) * aspect, uniform(2 * shift / width)], dim=1)
    second = torch.stack([sin / aspect, cos + slant * sin, uniform(2 * shift / height)], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images - dark, grid.to(images), align_corners=False) + dark


def random_flip(images: Tensor) -> Tensor:
    """Each image, (B, C, H, W), mirrored left to right with probability 1/2."""
    mirrored = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)
