"""Cubic: cubic vector fields, such as that of the cubic spiral."""

from collections.abc import Sequence

from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.symbolic import square


class Cubic(of.Dynamics):
    """dy/dt = y³A, with the cubes of the entries of the row vector y.

    With A = [[−0.1, 2], [−2, −0.1]] it is the field of the data `Spiral`.

    Source: Chen et al. (2018), as released in torchdiffeq's `ode_demo`.

    Args:
        dim: Length d of the state.
        matrix: The rows of the initial A; by default drawn as the weights of a linear layer.
        trainable: Whether A is trainable.

    Attributes:
        weight: (d, d), A.

    Raises:
        SettingError: The matrix is not d × d.
    """

    def __init__(self, dim: int, matrix: Sequence[Sequence[float]] | None = None, trainable: bool = True) -> None:
        super().__init__()
        of.check_least(self, 1, dim=dim)
        self.width = dim
        start = nn.Linear(dim, dim).weight.detach() if matrix is None else square("Cubic", matrix, dim)
        self.weight = nn.Parameter(start.clone(), requires_grad=trainable)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, d) ↦ (…, d).

        Raises:
            StateError: The state's last dimension is not d.
        """
        if y.dim() == 0 or y.shape[-1] != self.width:
            raise of.StateError(f"Cubic(dim={self.width}) takes states (…, {self.width}); got {tuple(y.shape)}")
        return y**3 @ self.weight
