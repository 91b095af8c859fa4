"""Models whose parameters are sharded by FSDP2, in plain PyTorch."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import odeflow as of
from odeflow.plugin import registry
from odeflow_dynamics import MLP
from odeflow_solvers import RK4

COUNT = 8


class Net(nn.Module):
    """A flow and a layer."""

    def __init__(self, gradient: of.Gradient) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.flow = of.Flow(MLP(3, hidden=(5,)).double(), RK4(num_steps=4), gradient)
        self.head = nn.Linear(3, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        """The loss."""
        return self.head(self.flow(x)).square().sum(1).mean()


def errors(place: int) -> dict[str, dict[str, float | str]]:
    """By how much gradients of half of a batch each are off those of the whole one, or what was refused.

    Args:
        place: The number of this process.

    Returns:
        By the name of the gradient, of a model that is one unit, and of a model whose field is another unit.
    """
    mesh = init_device_mesh("cpu", (2,))
    x = torch.randn(COUNT, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    half = x[: COUNT // 2] if place == 0 else x[COUNT // 2 :]
    found: dict[str, dict[str, float | str]] = {"one unit": {}, "field apart": {}}
    for name, gradient in registry.plugins("gradient").items():
        whole = Net(gradient())
        whole(x).backward()
        for kind, errors in found.items():
            model = Net(gradient())
            if kind == "field apart":
                fully_shard(model.flow.dynamics, mesh=mesh)
            fully_shard(model, mesh=mesh)
            try:
                model(half).backward()
            except of.GradientError as problem:
                errors[name] = str(problem)
                continue
            pairs = zip(model.parameters(), whole.parameters(), strict=True)
            errors[name] = max(float((mine.grad.full_tensor() - wanted.grad).abs().max()) for mine, wanted in pairs)
    return found
