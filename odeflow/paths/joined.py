"""Joined: several paths as one."""

from collections.abc import Callable

import torch
from torch import Tensor

from odeflow.paths.path import Path


class Joined(Path):
    """The values of several paths, concatenated along dimension 1.

    Args:
        paths: The paths, at least one, of the same samples or common to all samples.

    Example:
        >>> import torch
        >>> from odeflow.paths import Constant, Function
        >>> path = Joined(Function(lambda t: torch.sin(t)[..., None]), Constant(torch.ones(3, 2)))
        >>> path(torch.tensor(0.0)).shape
        torch.Size([3, 3])
    """

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self.breaks = tuple(sorted({time for path in paths for time in path.breaks}))
        self.continuous = all(path.continuous for path in paths)
        self.tensors = tuple(tensor for path in paths for tensor in path.tensors)

    def __call__(self, t: Tensor) -> Tensor:
        return self._joined(lambda path: path(t))

    def derivative(self, t: Tensor) -> Tensor:
        return self._joined(lambda path: path.derivative(t))

    def _joined(self, value: Callable[[Path], Tensor]) -> Tensor:
        values = [value(path) for path in self.paths]
        size = max(map(len, values))
        return torch.cat([each.expand(size, *each.shape[1:]) if len(each) == 1 else each for each in values], dim=1)
