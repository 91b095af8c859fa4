"""A flow in an ordinary PyTorch loop, without Lightning: it parts a disc from the ring around it.

A flow of the plane cannot do that, since paths do not cross; one further dimension lifts the disc out of the ring
(Dupont et al. 2019, "Augmented Neural ODEs").
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics import MLP
from odeflow_solvers import RK4


def disc_and_ring(samples: int) -> tuple[Tensor, Tensor]:
    """(samples, 2), points within radius 1 and between radii 1.5 and 2.5; (samples,), 1 for those of the ring."""
    label = (torch.arange(samples) % 2).float()
    radius, angle = torch.rand(samples) + 1.5 * label, 2 * torch.pi * torch.rand(samples)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), label


def main(steps: int = 40) -> float:
    """Trains, and returns the last loss."""
    torch.manual_seed(0)
    x, label = disc_and_ring(128)
    flow = of.Flow(
        MLP(dim=3, hidden=(32,)), RK4(num_steps=4), gradient=of.Checkpointed(), options=of.FlowOptions(augment=1)
    )
    model = nn.Sequential(flow, nn.Linear(3, 1), nn.Flatten(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(steps):
        loss = F.binary_cross_entropy_with_logits(model(x), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (0, steps - 1):
            print(f"step {step + 1:2}: loss {loss.item():.4f}, {flow.stats.nfe_forward} evaluations of the field")
    return loss.item()


if __name__ == "__main__":
    main()
