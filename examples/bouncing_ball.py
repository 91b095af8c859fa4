"""A bouncing ball: events restart the solve, and gradients through all bounces find how elastic the ball is."""

import torch
from torch import Tensor

import odeflow as of
from odeflow_solvers import Dopri5

GRAVITY = 9.81


def fall(t: Tensor, y: Tensor) -> Tensor:
    """(B, 2) ↦ (B, 2), height and speed."""
    return torch.stack([y[:, 1], torch.full_like(y[:, 1], -GRAVITY)], dim=1)


def heights(elasticity: Tensor, t: Tensor) -> tuple[Tensor, int]:
    """(T,), the heights of a ball that is dropped from 1 m; the number of its bounces."""

    def bounced(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(y[:, 0]), -elasticity * y[:, 1]], dim=1)

    ground = of.Event(lambda t, y: y[0, 0], direction=-1, then=bounced)
    y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    path = of.solve(fall, y0, t, solver=Dopri5(1e-8, 1e-8), gradient=of.Backprop(), event=ground)
    return path.y[:, 0, 0], len(path.events[0].t)


def main(steps: int = 25) -> float:
    """Learns the elasticity from heights, and returns it; it is 0.8."""
    t = torch.linspace(0, 1.5, 31, dtype=torch.float64)
    seen, bounces = heights(torch.tensor(0.8, dtype=torch.float64), t)
    print(f"{bounces} bounces until t = 1.5")
    elasticity = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([elasticity], lr=0.02)
    for step in range(steps):
        loss = (heights(elasticity, t)[0] - seen).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 0:
            print(f"step {step:2}: elasticity {elasticity.item():.3f}, error {loss.item():.2e}")
    print(f"learned {elasticity.item():.3f}, true 0.8")
    return elasticity.item()


if __name__ == "__main__":
    main()
