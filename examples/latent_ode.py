"""A latent ODE by hand: an encoder, a flow and a decoder, trained on sine waves seen at 12 of 40 times."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import odeflow as of
from odeflow_dynamics import MLP
from odeflow_solvers import RK4

T = torch.linspace(0, 1, 40)
NOISE = 0.1


def waves(count: int) -> tuple[Tensor, Tensor]:
    """(count, 40), sine waves of random phase and frequency; (count, 40), where they are seen."""
    phase, frequency = 2 * math.pi * torch.rand(count, 1), 5 + 3 * torch.rand(count, 1)
    seen = torch.rand(count, len(T)).argsort(1) < 12
    return (phase + frequency * T).sin(), seen


class Latent(nn.Module):
    """q(z₀ | what is seen), dz/dt = f(z), and the mean of x given z."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2 * len(T), 64), nn.Tanh(), nn.Linear(64, 2 * width))
        self.flow = of.Flow(MLP(dim=width, hidden=(32,), time="none"), RK4(num_steps=8))
        self.decoder = nn.Linear(width, 1)

    def forward(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 40), the reconstruction by a sample of the posterior; (B,), the divergence from the prior."""
        mean, log_std = self.encoder(torch.cat([x * seen, seen.float()], dim=1)).chunk(2, dim=1)
        posterior = Normal(mean, (log_std - 2).exp())
        z = self.flow.trajectory(posterior.rsample(), T).y  # (40, B, width)
        return self.decoder(z).squeeze(-1).t(), kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)


def main(steps: int = 200) -> tuple[float, float]:
    """Trains, and returns the errors (RMS) of unseen values: of the model, and of the mean of what is seen."""
    torch.manual_seed(0)
    model = Latent()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(steps):
        x, seen = waves(128)
        found, divergence = model(x + NOISE * torch.randn_like(x), seen)
        likelihood = Normal(found, NOISE).log_prob(x).sum(1)
        loss = (min(1.0, step / 100) * divergence - likelihood).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step:3}: −ELBO {loss.item():8.1f}")

    x, seen = waves(500)
    with torch.no_grad():
        error = (model(x, seen)[0] - x)[~seen].square().mean().sqrt().item()
    mean = (x * seen).sum(1, keepdim=True) / 12
    simple = (mean - x)[~seen].square().mean().sqrt().item()
    print(f"unseen values: {error:.3f}; the mean of what is seen: {simple:.3f}")
    return error, simple


if __name__ == "__main__":
    main()
