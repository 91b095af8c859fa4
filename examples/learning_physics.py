"""Learning physics: stiffness and drag of a pendulum from noisy angles, and a network for what the equation lacks."""

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics import MLP, Coefficient
from odeflow_solvers import RK4


class Pendulum(of.Dynamics):
    """q'' = −k sin q − c q' + g(q, q'), with g a network where there is one."""

    width, states = 2, ("angle", "speed")

    def __init__(self, k: float, c: float, unknown: nn.Module | None = None) -> None:
        super().__init__()
        self.k, self.c = Coefficient(k, low=0.0), Coefficient(c, low=0.0)
        self.unknown = unknown

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        q, v = y.unbind(1)
        force = -self.k() * q.sin() - self.c() * v
        if self.unknown is not None:
            force = force + self.unknown(t, y)[:, 0]
        return torch.stack([v, force], dim=1)


def fit(field: Pendulum, y0: Tensor, t: Tensor, seen: Tensor, steps: int) -> float:
    """Least squares on the angles; returns the root mean square error."""
    flow, optimizer = of.Flow(field, RK4(step_size=0.2)), torch.optim.Adam(field.parameters(), lr=0.03)
    for _ in range(steps):
        loss = (flow.trajectory(y0, t).y[..., 0] - seen).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.sqrt().item()


def main(steps: int = 60) -> tuple[float, float, float, float]:
    """What k and c are learned to be, and the errors without and with a network where the spring stiffens."""
    torch.manual_seed(0)
    t, y0 = torch.linspace(0, 4, 21), torch.tensor([[1.0, 0.0], [0.3, 0.5], [-0.8, 0.2]])
    truth = of.Flow(Pendulum(2.0, 0.3), RK4(step_size=0.2)).trajectory(y0, t).y[..., 0].detach()
    field = Pendulum(1.5, 0.1)
    error = fit(field, y0, t, truth + 0.01 * torch.randn_like(truth), steps)
    k, c = field.k().item(), field.c().item()
    print(f"k = {k:.2f} (2), c = {c:.2f} (0.3), error {error:.3f} where the noise is 0.01")

    def stiffened(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[:, 1], -2 * y[:, 0].sin() - 0.3 * y[:, 1] - 1.5 * y[:, 0] ** 3], dim=1)

    seen = of.solve(stiffened, y0, t, solver=RK4(step_size=0.2), params=()).y[..., 0]
    without = fit(Pendulum(2.0, 0.3), y0, t, seen, 1)  # as it is
    together = fit(Pendulum(2.0, 0.3, MLP(dim=2, hidden=(16,), time="none", zero_init=True)), y0, t, seen, steps)
    print(f"a spring that stiffens: error {without:.4f}, with a network {together:.4f}")
    return k, c, without, together


if __name__ == "__main__":
    main()
