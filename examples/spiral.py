"""A network learns the vector field of a spiral from short pieces of one trajectory, in an ordinary PyTorch loop.

Source: Chen et al. (2018), "Neural Ordinary Differential Equations", the demonstration of torchdiffeq.
"""

import torch
from torch import Tensor

import odeflow as of
from odeflow_dynamics import MLP
from odeflow_solvers import Dopri5

A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])


def truth(t: Tensor, y: Tensor) -> Tensor:
    """dy/dt = y³ A."""
    return y**3 @ A


def main(steps: int = 400) -> tuple[float, float]:
    """Trains, and returns the mean absolute errors of the learned trajectory and of one that stays where it is."""
    torch.manual_seed(0)
    t = torch.linspace(0, 4, 161)
    solver = Dopri5(rtol=1e-3, atol=1e-4)
    y = of.solve(truth, torch.tensor([[2.0, 0.0]]), t, solver=solver, params=()).y[:, 0]  # (161, 2)

    flow = of.Flow(MLP(dim=2, hidden=(50,), time="none", power=3), solver)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for step in range(steps):
        starts = torch.randint(152, (20,))
        pieces = torch.stack([y[starts + ahead] for ahead in range(10)])  # (10, 20, 2)
        loss = (flow.trajectory(pieces[0], t[:10]).y - pieces).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step:3}: loss {loss.item():.4f}, {flow.stats.nfe_forward} evaluations")

    with torch.no_grad():
        found = flow.trajectory(y[:1], t[:101]).y[:, 0]
    error, still = (found - y[:101]).abs().mean().item(), (y[0] - y[:101]).abs().mean().item()
    print(f"mean error until t = 2.5: {error:.3f}; of one that stays where it is: {still:.3f}")
    return error, still


if __name__ == "__main__":
    main()
