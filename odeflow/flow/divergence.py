"""The divergence of a vector field, tr ∂f/∂y, which governs densities: exact, or an unbiased estimate."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.flow.dynamics import Dynamics
from odeflow.flow.regularizers import Rate
from odeflow.plugin.plugin import Plugin, check_least


class Divergence(Plugin, ABC):
    """A method to compute tr ∂f/∂y for each sample.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", theorem 1: along a solution the log-density
    changes at the rate −tr ∂f/∂y.
    """

    kind = "divergence"

    @abstractmethod
    def along(self, y0: Tensor) -> Rate:
        """The divergence as a rate along one solve. Random numbers are drawn here and fixed during the solve.

        Args:
            y0: (B, *state), a state of the solve.

        Returns:
            (field, t, y, f(t, y) with its graph) ↦ (B,).
        """


class Exact(Divergence):
    """The exact trace: in closed form if the dynamics has one, otherwise by a product with each unit vector.

    The products cost one backward pass per entry of the state.
    """

    def along(self, y0: Tensor) -> Rate:
        return self.rate

    def rate(self, field: Field, t: Tensor, y: Tensor, f: Tensor) -> Tensor:
        """(B,), the trace."""
        closed = field.divergence(t, y) if isinstance(field, Dynamics) else None
        if closed is not None:
            return closed
        if not f.requires_grad:  # the field does not depend on the state
            return f.new_zeros(len(f))
        size = y.shape[1:].numel()
        units = torch.eye(size, dtype=f.dtype, device=f.device)
        units = units.view(size, 1, *y.shape[1:]).expand(size, *y.shape)
        return (_products(f, y, units) * units).flatten(2).sum((0, 2))


class Hutchinson(Divergence):
    """The mean of εᵀ (∂f/∂y) ε over random ε with E[εεᵀ] = 1.

    Random signs ("rademacher") have the smallest variance, 2 (‖S‖²_F − Σ Sᵢᵢ²) / K with S the symmetric part of ∂f/∂y;
    for normal ε it is 2 ‖S‖²_F / K.

    Source: Hutchinson (1990), Comm. Stat. Simul. 19, 433–450; Grathwohl et al. (2019), "FFJORD".

    Args:
        noise: "rademacher" or "gaussian".
        probes: Number K of random vectors.

    Raises:
        SettingError: `noise` is unknown, or `probes` is not positive.
    """

    def __init__(self, noise: Literal["rademacher", "gaussian"] = "rademacher", probes: int = 1) -> None:
        check_least(self, 1, probes=probes)
        self.noise, self.probes = noise, probes

    def along(self, y0: Tensor) -> Rate:
        draw = _signs if self.noise == "rademacher" else _normal
        return _Hutchinson(draw(y0, self.probes))


@dataclass(frozen=True)
class _Hutchinson:
    """The estimate by the vectors `probes`, (K, B, *state)."""

    probes: Tensor

    def __call__(self, field: Field, t: Tensor, y: Tensor, f: Tensor) -> Tensor:
        if not f.requires_grad:
            return f.new_zeros(len(f))
        return (_products(f, y, self.probes) * self.probes).flatten(2).sum(2).mean(0)


class HutchPlusPlus(Divergence):
    """The exact trace on a K-dimensional subspace, and Hutchinson's estimate on its complement.

    With Q an orthonormal basis of the image of K random vectors, tr J = tr QᵀJQ + tr PJP with P = 1 − QQᵀ. If few
    directions dominate the trace, the error falls as 1/K rather than 1/√K; it vanishes for K ≥ n. Each evaluation
    costs 3K products. The gradient is an unbiased estimate of the trace's: it holds the subspace constant, so that it
    is not that of the estimate.

    Source: Meyer et al. (2021), "Hutch++: Optimal Stochastic Trace Estimation", algorithm 1.

    Args:
        probes: Number K of directions, and of random vectors on the complement.

    Raises:
        SettingError: `probes` is not positive.
    """

    def __init__(self, probes: int = 1) -> None:
        check_least(self, 1, probes=probes)
        self.probes = probes

    def along(self, y0: Tensor) -> Rate:
        count = min(self.probes, y0.shape[1:].numel())
        return _HutchPlusPlus(_signs(y0, count), _signs(y0, self.probes))


@dataclass(frozen=True)
class _HutchPlusPlus:
    """The estimate by random vectors, for the subspace and for its complement, each (K, B, *state)."""

    sketch: Tensor
    probes: Tensor

    def __call__(self, field: Field, t: Tensor, y: Tensor, f: Tensor) -> Tensor:
        if not f.requires_grad:
            return f.new_zeros(len(f))
        image = _products(f, y, self.sketch).detach().flatten(2).permute(1, 2, 0)  # (B, n, K)
        basis = torch.linalg.qr(image)[0]  # unbiased for any basis: no gradient through it
        columns = basis.permute(2, 0, 1).view(self.sketch.shape)
        rest = self.probes.flatten(2).permute(1, 2, 0)
        rest = (rest - basis @ (basis.mT @ rest)).permute(2, 0, 1).view(self.probes.shape)
        known = (_products(f, y, columns) * columns).flatten(2).sum((0, 2))
        return known + (_products(f, y, rest) * rest).flatten(2).sum(2).mean(0)


def _products(f: Tensor, y: Tensor, vectors: Tensor) -> Tensor:
    """(K, B, *state): vᵀ ∂f/∂y for each of the vectors (K, B, *state), computed sequentially.

    Batching them was not faster, and PyTorch's batched derivatives do not support every layer.
    """
    options = {"create_graph": True, "materialize_grads": True}
    return torch.stack([torch.autograd.grad(f, y, vector, **options)[0] for vector in vectors])


def _signs(like: Tensor, count: int) -> Tensor:
    return torch.randint(0, 2, (count, *like.shape), device=like.device).to(like) * 2 - 1


def _normal(like: Tensor, count: int) -> Tensor:
    return torch.randn(count, *like.shape, dtype=like.dtype, device=like.device)
