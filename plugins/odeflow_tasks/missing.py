"""Missing values of series."""

import torch
from torch import Tensor

import odeflow as of


def observed(batch: of.Series) -> Tensor:
    """(B, T, d), what was seen; nan where nothing was."""
    return batch.y.masked_fill(~batch.seen, torch.nan)


def filled(values: Tensor) -> Tensor:
    """Missing values replaced by the last one before, or else by the next one; nan where there is none.

    Args:
        values: (B, T, d), nan where missing.
    """
    length, seen = values.shape[1], ~values.isnan()
    place = torch.arange(length, device=values.device)[:, None].expand_as(values)
    before = place.where(seen, -1).cummax(1).values
    after = length - 1 - (length - 1 - place).where(seen, 0).flip(1).cummax(1).values.flip(1)
    return values.gather(1, before.where(before >= 0, after))


def equal(one: Tensor, other: Tensor) -> Tensor:
    """Where values are equal in single precision; missing ones equal each other."""
    one, other = one.float(), other.float()
    return (one == other) | (one.isnan() & other.isnan())


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have one shape and the same values."""
    return one.shape == other.shape and bool(equal(one, other).all())
