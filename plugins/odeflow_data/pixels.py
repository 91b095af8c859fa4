"""Pixels: images that stay in memory as bytes, and are standardised batch by batch."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

import odeflow as of

CHUNK = 1000
"""Number of images that are converted at once."""
MOST_VALUES = 4_000_000
"""Maximum number of values to which baselines are fitted."""


class Pixels(Dataset[Any]):
    """Images with or without labels, which are converted and standardised batch by batch.

    Args:
        images: (N, C, H, W), bytes or floating-point numbers.
        labels: (N,), the classes; None if there are none.
        units: The units of `as_floats`, with an entry for each channel or one for all.
    """

    def __init__(self, images: Tensor, labels: Tensor | None, units: of.Units) -> None:
        self.images, self.labels, self.units = images, labels, units

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self._at(index)

    def __getitems__(self, indices: list[int]) -> Any:
        """The images of a batch, (B, C, H, W), or these and their labels, (B,)."""
        return self._at(indices)

    def thinned(self) -> Any:
        """All images, or as many as have `MOST_VALUES` values, in even distances."""
        return self._at(slice(None, None, -(-self.images.numel() // MOST_VALUES) or None))

    def _at(self, place: Any) -> Any:
        x = standardised(as_floats(self.images[place]), self.units)
        return x if self.labels is None else (x, self.labels[place])


def as_floats(images: Tensor) -> Tensor:
    """Images in single precision: bytes divided by 255, so that they lie between 0 and 1; other numbers as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def standardised(images: Tensor, units: of.Units) -> Tensor:
    """Images (…, C, H, W) in units that have an entry for each channel, or one for all."""
    if units.same:
        return images
    return units.standardised(images.movedim(-3, -1)).movedim(-1, -3).contiguous()


def channel_moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and standard deviation of each channel of `as_floats`, over all images and pixels.

    Args:
        images: (N, C, H, W).
    """
    chunks = images.split(CHUNK)
    mean = sum(as_floats(chunk).double().mean((2, 3)).sum(0) for chunk in chunks) / len(images)
    assert isinstance(mean, Tensor)
    centred = (as_floats(chunk).double() - mean[:, None, None] for chunk in chunks)
    variance = sum(each.square().mean((2, 3)).sum(0) for each in centred) / len(images)
    assert isinstance(variance, Tensor)
    return tuple(mean.tolist()), tuple(variance.sqrt().tolist())
