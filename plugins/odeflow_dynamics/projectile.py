"""Projectile: a body thrown in a plane."""

import torch
from torch import Tensor

import odeflow as of
from odeflow_dynamics.symbolic import coefficient, components


class Projectile(of.Dynamics):
    """dx/dt = v, dv/dt = (0, −g) − k|v|v: gravity, and the drag of the air.

    Args:
        gravity: g, in length/time², where learning begins.
        drag: k, in 1/length, where learning begins.
        trainable: Whether both are learned.

    Attributes:
        gravity: (), g.
        drag: (), k.
    """

    width = 4

    def __init__(self, gravity: float = 9.81, drag: float = 0.0, trainable: bool = True) -> None:
        super().__init__()
        self.gravity, self.drag = coefficient(gravity, trainable), coefficient(drag, trainable)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, 4) ↦ (…, 4), of place along the ground, height, and the velocities of both.

        Raises:
            StateError: The state is not of these four.
        """
        _, _, along, up = components("Projectile", y, "x height v_x v_height")
        braking = self.drag * torch.linalg.vector_norm(y[..., 2:], dim=-1)
        return torch.stack([along, up, -braking * along, -braking * up - self.gravity], dim=-1)
