"""An ODE layer in a classifier: scikit-learn's 8×8 digits, by a convolution, a flow, and a linear layer."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import odeflow as of
from odeflow_dynamics import ConvNet
from odeflow_solvers import RK4


def main(epochs: int = 3) -> float:
    """Trains, and returns the share of the test images that are classified correctly."""
    torch.manual_seed(0)
    digits = load_digits()
    order = torch.randperm(len(digits.target))
    x = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    label = torch.tensor(digits.target)[order]
    flow = of.Flow(ConvNet(channels=16), RK4(num_steps=2))
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        flow,
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(epochs):
        for batch in torch.randperm(1500).split(100):
            loss = F.cross_entropy(model(x[batch]), label[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = (model(x[1500:]).argmax(1) == label[1500:]).float().mean().item()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
