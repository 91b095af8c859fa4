"""The problems of the benchmarks: vector fields with fixed weights, what is asked of them, and the float64 truth.

Every problem is made from fixed seeds when it is asked for. Its truth is computed once, by torchdiffeq in float64 at a
far tighter tolerance, and kept in $XDG_CACHE_HOME/odeflow-benchmarks (or ~/.cache/odeflow-benchmarks).
"""

import copy
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchdiffeq
from torch import Tensor, nn

from odeflow_dynamics import MLP, ConvNet


@dataclass(frozen=True)
class Problem:
    """An initial value problem with the tolerances at which it is solved by Dormand–Prince 5(4).

    The gradients that are compared are those of L = Σ w · y with fixed weights w on all rows but the first.

    Attributes:
        name: Its name on the command line.
        title: What it is.
        field: The vector field, in float32.
        y0: (B, *state).
        t: (T,).
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        truth_tolerance: Both tolerances of the truth, unless told otherwise.
    """

    name: str
    title: str
    field: nn.Module
    y0: Tensor
    t: Tensor
    rtol: float
    atol: float
    truth_tolerance: float = 1e-11

    def weights(self) -> Tensor:
        """(T, *y0.shape), the w of L."""
        w = torch.randn((len(self.t), *self.y0.shape), generator=torch.Generator().manual_seed(5))
        w[0] = 0
        return w / w[1:].numel() ** 0.5

    def truth(self, tolerance: float | None = None) -> list[Tensor]:
        """[y, ∂L/∂y₀, ∂L/∂θ] in float64, the last as one vector; seconds, for `convolution` minutes.

        Args:
            tolerance: Both tolerances; the problem's own by default, whose result is kept on disk.
        """
        if tolerance is not None:
            return self._solve_truth(tolerance)
        digest = hashlib.sha256(repr((self.name, self.truth_tolerance)).encode())
        for tensor in (*self.field.state_dict().values(), self.y0, self.t):
            digest.update(tensor.numpy().tobytes())
        folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "odeflow-benchmarks"
        file = folder / f"{self.name}-{digest.hexdigest()[:12]}.pt"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(self._solve_truth(self.truth_tolerance), file)
        return torch.load(file, weights_only=True)

    def _solve_truth(self, tolerance: float) -> list[Tensor]:
        field, y0 = copy.deepcopy(self.field).double(), self.y0.double().requires_grad_()
        settings = {"rtol": tolerance, "atol": tolerance, "method": "dopri5"}
        y = torchdiffeq.odeint_adjoint(field, y0, self.t.double(), **settings)
        loss = (y * self.weights().double()).sum()
        grad_y0, *grads = torch.autograd.grad(loss, (y0, *field.parameters()))
        return [y.detach(), grad_y0, torch.cat([grad.flatten() for grad in grads])]


class DensityFlow(nn.Module):
    """A continuous normalising flow in two dimensions: the state is (z, log p), with d log p/dt = −tr ∂f/∂z.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", theorem 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(2, hidden=[64, 64, 64])

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, 3) ↦ (B, 3), with the exact trace."""
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            z = y[:, :2] if y.requires_grad else y[:, :2].detach().requires_grad_()
            velocity = self.net(t, z)
            rows = [
                torch.autograd.grad(velocity[:, i].sum(), z, create_graph=recorded, retain_graph=True)[0]
                for i in range(2)
            ]
            trace = rows[0][:, :1] + rows[1][:, 1:]
        return torch.cat([velocity if recorded else velocity.detach(), -trace], dim=1)


class Decline(nn.Module):
    """dy/dt = −λy: a field that takes less time than the solver's own operations on a large state."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(3.0))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Of any shape."""
        return -self.rate * y


def _random(seed: int) -> torch.Generator:
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def _spiral_field() -> MLP:
    """Fitted to the cubic spiral of torchdiffeq's `ode_demo`, so that the solution turns as in practice."""
    generator = _random(0)
    field = MLP(2, hidden=[50], time="none", power=3)
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-2)
    rotation, t = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]), torch.tensor(0.0)
    for _ in range(1000):
        y = 4 * torch.rand(512, 2, generator=generator) - 2
        loss = (field(t, y) - y**3 @ rotation).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return field


def _spiral(name: str, title: str, times: int, rtol: float, atol: float, batch: int = 20) -> Problem:
    field = _spiral_field()
    y0 = 3.4 * torch.rand(batch, 2, generator=_random(1)) - 1.7
    return Problem(name, title, field, y0, torch.linspace(0, 1, times), rtol, atol)


def spiral() -> Problem:
    """A small field at a tight tolerance: what a step costs besides the field."""
    return _spiral("spiral", "spiral, 2-50-2, batch 20, 10 times, 1e-7/1e-9", 10, 1e-7, 1e-9)


def output_times() -> Problem:
    """The same field with a hundred output times."""
    return _spiral("output-times", "spiral, 2-50-2, batch 20, 100 times, 1e-5", 100, 1e-5, 1e-5)


def large_batch() -> Problem:
    """The same field on many samples."""
    return _spiral("large-batch", "spiral, 2-50-2, batch 4096, 2 times, 1e-5", 2, 1e-5, 1e-5, batch=4096)


def perceptron() -> Problem:
    """Matrix products of medium size."""
    generator = _random(2)
    field = MLP(64, hidden=[256, 256], time="none")
    _double(field)
    y0 = torch.randn(256, 64, generator=generator)
    title = "perceptron, 64-256-256-64, batch 256, 1e-5"
    return Problem("perceptron", title, field, y0, torch.linspace(0, 1, 2), 1e-5, 1e-5)


def convolution() -> Problem:
    """The block of the ODE-Net on MNIST: a large state, and a field that dwarfs the solver."""
    generator = _random(3)
    field, y0 = ConvNet(64), torch.randn(128, 64, 6, 6, generator=generator)
    title = "ODE-Net block, 64 × 6 × 6, batch 128, 1e-3"
    return Problem("convolution", title, field, y0, torch.linspace(0, 1, 2), 1e-3, 1e-3, truth_tolerance=1e-6)


def density() -> Problem:
    """A field that differentiates."""
    generator = _random(4)
    field = DensityFlow()
    _double(field)
    z = 1.5 * torch.randn(512, 2, generator=generator)
    title = "density flow, 2-D, exact trace, batch 512, 1e-5"
    return Problem("density", title, field, torch.cat([z, torch.zeros(512, 1)], 1), torch.linspace(0, 1, 2), 1e-5, 1e-5)


def large_state() -> Problem:
    """What a solver's own passes over a large state cost."""
    y0, t = torch.linspace(1, 2, 2_000_000)[None], torch.linspace(0, 1, 2)
    title = "two million numbers, dy/dt = −3y, 1e-6"
    return Problem("large-state", title, Decline(), y0, t, 1e-6, 1e-6, truth_tolerance=1e-9)


@torch.no_grad()
def _double(field: nn.Module) -> None:
    """Twice the initial weights: a field that a solver must take seriously."""
    for param in field.parameters():
        param.mul_(2)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "spiral": spiral,
    "perceptron": perceptron,
    "convolution": convolution,
    "density": density,
    "output-times": output_times,
    "large-batch": large_batch,
    "large-state": large_state,
}
