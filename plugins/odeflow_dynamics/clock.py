"""Broadcasting of times, common or per sample, against states."""

from torch import Tensor


def as_feature(t: Tensor, y: Tensor) -> Tensor:
    """The time as a feature or channel, broadcastable against states.

    Args:
        t: (), or (B,) where each sample has its own.
        y: (B, *state).

    Returns:
        (1,), or (B, 1, …) with as many dimensions as y.
    """
    return t.reshape(*t.shape, *(1,) * (y.dim() - t.dim() if t.dim() else 1))
