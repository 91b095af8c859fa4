"""What surrounds a forward pass and must be there again when parts of it are run in the backward pass."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor


class Autocast:
    """The state of autocast where this object is made, on a tensor's device.

    Args:
        like: Says which device.
    """

    def __init__(self, like: Tensor) -> None:
        self.device = like.device.type
        self.enabled = torch.is_autocast_enabled(self.device)
        self.dtype = torch.get_autocast_dtype(self.device)

    @contextmanager
    def again(self) -> Generator[None]:
        """The same state once more.

        Autocast caches the parameters that it has cast. A copy made without autograd carries no gradient, so none
        is kept beyond the part that made it.
        """
        torch.clear_autocast_cache()
        with torch.autocast(self.device, dtype=self.dtype, enabled=self.enabled):
            yield
        torch.clear_autocast_cache()
