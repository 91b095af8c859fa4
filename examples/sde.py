"""A stochastic equation: geometric Brownian motion, the order of two solvers, and a drift learned by its paths."""

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_sde import EulerMaruyama, Milstein

VOLATILITY = 0.5


class Growth(of.Stochastic):
    """dy = µ y dt + σ y dW in the sense of Itô, with µ to be learned."""

    width = 1

    def __init__(self, drift: float) -> None:
        super().__init__()
        self.drift = nn.Parameter(torch.tensor(drift))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.drift * y

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return VOLATILITY * y


def error(solver: of.Solver, field: Growth) -> float:
    """The mean distance from the exact end of the same Brownian paths."""
    y0, noise = torch.ones(2000, 1), of.paths.BrownianTree(0, (2000, 1), 0.0, 1.0)
    with torch.no_grad():
        exact = (field.drift - VOLATILITY**2 / 2 + VOLATILITY * noise(1.0)).exp()
        return (of.solve(field, y0, [0.0, 1.0], solver=solver, noise=noise).y[-1] - exact).abs().mean().item()


def main(steps: int = 40) -> tuple[dict[str, float], float]:
    """The strong orders of two solvers, and the drift that is learned from the mean of paths; it is 0.2."""
    torch.manual_seed(0)
    orders = {}
    for solver in (EulerMaruyama, Milstein):
        coarse, fine = (error(solver(num_steps=count), Growth(0.2)) for count in (8, 32))
        orders[solver.__name__] = float(torch.tensor(coarse / fine).log2() / 2)
        print(f"{solver.__name__:>14}: error {coarse:.4f} with 8 steps, {fine:.4f} with 32")
        print(f"{'':>14}  order {orders[solver.__name__]:.2f}")

    flow = of.Flow(Growth(0.0), EulerMaruyama(num_steps=20))
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.02)
    wanted = torch.tensor(0.2).exp()  # E y(1)
    for _ in range(steps):
        loss = (flow(torch.ones(2000, 1)).mean() - wanted).square()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"learned drift {flow.dynamics.drift.item():.3f}, true 0.2")
    return orders, flow.dynamics.drift.item()


if __name__ == "__main__":
    main()
