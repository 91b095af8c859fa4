"""Ahead: a path that at each time has the value of the next row."""

import torch
from torch import Tensor

import odeflow as of


class Ahead(of.Path):
    """u(t) is the value at the first of the given times after t, and the last value from then on.

    It is the context of a posterior path: what was read of a series backward in time, from its end to the next
    observation. Its jumps are no `breaks`, as the steps of a stochastic solve end at the output times anyway.

    Args:
        t: (B, T), in ascending order.
        values: (B, T, c).

    Example:
        >>> import torch
        >>> path = Ahead(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[[5.0], [6.0], [7.0]]]))
        >>> [float(path(torch.tensor(time))) for time in (0.0, 0.9, 1.0, 2.0)]
        [6.0, 6.0, 7.0, 7.0]
    """

    continuous = False

    def __init__(self, t: Tensor, values: Tensor) -> None:
        self.common = bool((t == t[:1]).all())
        self.t, self.values = (t[0] if self.common else t).contiguous(), values
        self.tensors = (values,)
        self.rows = torch.arange(len(values), device=values.device)

    def __call__(self, t: Tensor) -> Tensor:
        last = self.values.shape[1] - 1
        if self.common and not t.dim():
            return self.values[:, int(torch.searchsorted(self.t, t.to(self.t), right=True).clamp(max=last))]
        times = self.t.expand(len(self.values), last + 1).contiguous()
        asked = t.to(times).expand(len(self.values))[:, None].contiguous()
        return self.values[self.rows, torch.searchsorted(times, asked, right=True)[:, 0].clamp(max=last)]

    def derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(self(t))
