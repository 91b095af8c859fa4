"""Derivative: the rate of change of a path."""

import torch
from torch import Tensor

from odeflow.paths.path import Path


class Derivative(Path):
    """u(t) = dX/dt, of a path X: what drives a controlled equation dz = f(z) dX.

    It jumps at the breaks of X, where it is the derivative on the right.

    Args:
        path: The path X.

    Example:
        >>> import torch
        >>> from odeflow.paths import Linear
        >>> path = Linear(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([[[0.0], [2.0], [0.0]]]))
        >>> Derivative(path)(torch.tensor(0.5)), Derivative(path)(torch.tensor(1.0))
        (tensor([[2.]]), tensor([[-1.]]))
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.breaks, self.continuous, self.tensors = path.breaks, not path.breaks, path.tensors

    def __call__(self, t: Tensor) -> Tensor:
        return self.path.derivative(t)

    def derivative(self, t: Tensor) -> Tensor:
        """As in `Path`, by automatic differentiation."""
        return torch.func.jvp(self.path.derivative, (t,), (torch.ones_like(t),))[1]
