"""A continuous normalizing flow fitted to two moons by its likelihood: log_prob, samples, and its integral."""

import torch
from sklearn.datasets import make_moons

import odeflow as of
from odeflow_dynamics import MLP
from odeflow_solvers import Dopri5


def main(steps: int = 60) -> tuple[float, float]:
    """Trains, and returns the negative log-likelihood of new points, and what the density integrates to."""
    torch.manual_seed(0)

    def moons(count: int, seed: int) -> torch.Tensor:
        return torch.tensor(make_moons(count, noise=0.1, random_state=seed)[0], dtype=torch.float32)

    cnf = of.CNF(of.Flow(MLP(dim=2, hidden=(32, 32)), Dopri5(1e-3, 1e-3)), shape=(2,))
    optimizer = torch.optim.Adam(cnf.parameters(), lr=2e-2)
    for step in range(steps):
        loss = -cnf().log_prob(moons(256, seed=step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step:2}: {loss.item():.3f} nats")

    side = torch.linspace(-5, 6, 60)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        test = -cnf().log_prob(moons(1000, seed=10_000)).mean().item()
        mass = cnf().log_prob(grid).exp().sum().item() * float(side[1] - side[0]) ** 2
        drawn, log_prob = cnf().sample_and_log_prob((5,))
    print(f"new points: {test:.3f} nats; the density integrates to {mass:.3f}")
    for point, value in zip(drawn.tolist(), log_prob.tolist(), strict=True):
        print(f"sample ({point[0]:5.2f}, {point[1]:5.2f}), log p = {value:.2f}")
    return test, mass


if __name__ == "__main__":
    main()
