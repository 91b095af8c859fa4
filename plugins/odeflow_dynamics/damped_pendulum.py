"""DampedPendulum: a pendulum with linear friction."""

import torch
from torch import Tensor

import odeflow as of
from odeflow_dynamics.coefficient import Coefficient
from odeflow_dynamics.symbolic import components


class DampedPendulum(of.Dynamics):
    """dθ/dt = ω, dω/dt = −(g/l) sin θ − c ω.

    Args:
        stiffness: Initial g/l, in 1/time².
        drag: Initial c, in 1/time.
        trainable: Whether both are trainable.

    Attributes:
        stiffness: g/l.
        drag: c.
    """

    width = 2
    states = ("angle", "velocity")

    def __init__(self, stiffness: float = 1.0, drag: float = 0.0, trainable: bool = True) -> None:
        super().__init__()
        self.stiffness, self.drag = (Coefficient(value, trainable=trainable) for value in (stiffness, drag))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(…, 2) ↦ (…, 2), of angle θ (rad) and angular velocity ω.

        Raises:
            StateError: The last dimension of the state is not 2.
        """
        angle, velocity = components("DampedPendulum", y, "θ ω")
        return torch.stack([velocity, -self.stiffness() * angle.sin() - self.drag() * velocity], dim=-1)
