"""How the time, one for all samples or one for each, meets the state."""

from torch import Tensor


def as_feature(t: Tensor, y: Tensor) -> Tensor:
    """The time as one feature or channel, to be broadcast against states.

    Args:
        t: (), or (B,) where each sample has its own.
        y: (B, *state).

    Returns:
        (1,), or (B, 1, …) with as many dimensions as y.
    """
    return t.reshape(*t.shape, *(1,) * (y.dim() - t.dim() if t.dim() else 1))
