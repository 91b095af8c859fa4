"""What the tests share: problems to solve, and the registry."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from odeflow.plugin import registry

registry.discover()
SHARED = Path(__file__).parents[2] / "shared"


class Pendulum(nn.Module):
    """A nonlinear, time-dependent field with parameters, in float64, one of them frozen and one unused."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner = nn.Linear(3, 8, dtype=torch.float64)
        self.outer = nn.Linear(8, 3, dtype=torch.float64)
        self.frozen = nn.Parameter(torch.full((3,), -0.1, dtype=torch.float64), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(2 * t) * self.outer(torch.tanh(self.inner(y))) + self.frozen * y**3


class Coupled(nn.Module):
    """The same as a field on a tuple of two tensors of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.field = Pendulum()

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        position, energy = y
        slope = self.field(t, position)
        return slope, (slope * position).sum(1) * torch.sin(t) - 0.3 * energy


@pytest.fixture
def pendulum() -> Pendulum:
    return Pendulum()


@pytest.fixture
def coupled() -> Coupled:
    return Coupled()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; a test that needs it is skipped where it is absent, but not by CI."""
    if not SHARED.is_dir() and os.environ.get("CI") != "true":
        pytest.skip(f"needs the real data in {SHARED.name}/ beside the project")
    return SHARED
