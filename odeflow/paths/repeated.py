"""Repeated: a path for several copies of its samples."""

from collections.abc import Callable

import torch
from torch import Tensor

from odeflow.paths.path import Path


class Repeated(Path):
    """A path whose samples are repeated, such as for several initial states of each sample: (copies · B, c, …).

    Args:
        path: The path, of B samples.
        copies: Number of repetitions.

    Example:
        >>> import torch
        >>> from odeflow.paths import Constant
        >>> Repeated(Constant(torch.tensor([[1.0], [2.0]])), 2)(torch.tensor(0.0)).flatten()
        tensor([1., 2., 1., 2.])
    """

    def __init__(self, path: Path, copies: int) -> None:
        self.path, self.copies = path, copies
        self.breaks, self.continuous, self.tensors = path.breaks, path.continuous, path.tensors

    def __call__(self, t: Tensor) -> Tensor:
        return self._repeated(self.path, t)

    def derivative(self, t: Tensor) -> Tensor:
        return self._repeated(self.path.derivative, t)

    def _repeated(self, value: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
        if t.dim():
            return torch.cat([value(part) for part in t.chunk(self.copies)])
        u = value(t)
        return u.repeat(self.copies, *(1,) * (u.dim() - 1))
