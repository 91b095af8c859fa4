"""Projectile: a body in a plane with gravity and quadratic drag."""

import torch
from torch import Tensor

import odeflow as of
from odeflow_dynamics.coefficient import Coefficient
from odeflow_dynamics.symbolic import components


class Projectile(of.Dynamics):
    """dx/dt = v, dv/dt = (0, −g) − k|v|v: gravity and air drag.

    Args:
        gravity: Initial g, in length/time².
        drag: Initial k, in 1/length.
        trainable: Whether both are trainable.

    Attributes:
        gravity: g.
        drag: k.
    """

    width = 4

    def __init__(self, gravity: float = 9.81, drag: float = 0.0, trainable: bool = True) -> None:
        super().__init__()
        self.gravity, self.drag = (Coefficient(value, trainable=trainable) for value in (gravity, drag))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, 4) ↦ (…, 4), of horizontal position, height, and their velocities.

        Raises:
            StateError: The last dimension of the state is not 4.
        """
        _, _, along, up = components("Projectile", y, "x height v_x v_height")
        braking = self.drag() * torch.linalg.vector_norm(y[..., 2:], dim=-1)
        return torch.stack([along, up, -braking * along, -braking * up - self.gravity()], dim=-1)
