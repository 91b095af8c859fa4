"""A controlled system: a network learns to swing a pendulum up, its torque being an input of the equation.

The state is solved together with the cost, whose gradient goes through the solve into the controller.
"""

import math

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_solvers import RK4


class Controlled(nn.Module):
    """q'' = sin q + u(q, q'), with q = π where it hangs; and the cost ∫ (1 − cos q + q'² / 10 + u² / 100) dt."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 1))

    def torque(self, q: Tensor, v: Tensor) -> Tensor:
        """(B,), between −2 and 2."""
        return 2 * torch.tanh(self.net(torch.stack([q.sin(), q.cos(), v], dim=1)).squeeze(1))

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(state (B, 2), cost (B,)) ↦ their rates."""
        q, v = y[0].unbind(1)
        u = self.torque(q, v)
        return torch.stack([v, q.sin() + u], dim=1), 1 - q.cos() + v**2 / 10 + u**2 / 100


def main(steps: int = 60) -> tuple[float, float]:
    """Trains, and returns the largest angle from the top at the end, before and after, in radians."""
    torch.manual_seed(0)
    flow = of.Flow(Controlled(), RK4(num_steps=30), options=of.FlowOptions(t1=6.0))
    hanging = torch.stack([math.pi + 0.4 * torch.linspace(-1, 1, 8), torch.zeros(8)], dim=1)

    def solved() -> tuple[Tensor, float]:
        state, cost = flow((hanging, torch.zeros(8)))
        angle = torch.atan2(state[:, 0].sin(), state[:, 0].cos()).abs().max().item()
        return cost.mean(), angle

    before = solved()[1]
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-2)
    for step in range(steps):
        cost, angle = solved()
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step:3}: cost {cost.item():6.2f}, largest angle at the end {angle:.2f}")
    after = solved()[1]
    print(f"largest angle from the top at t = 6: {before:.2f} before, {after:.2f} after")
    return before, after


if __name__ == "__main__":
    main()
