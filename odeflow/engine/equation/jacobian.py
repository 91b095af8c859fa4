"""Jacobians of a field, block-diagonal if samples are independent, and linear systems with them."""

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from odeflow.engine.equation.field import Counted
from odeflow.engine.equation.forward_mode import along
from odeflow.engine.equation.state import Field
from odeflow.errors import StateError


@dataclass(frozen=True)
class Factors:
    """The LU factors of I − hγJ, block by block.

    Attributes:
        factors: (b, n, n).
        pivots: (b, n).
        dim: The dimension of the state that indexes the blocks; None for a single block.
    """

    factors: Tensor
    pivots: Tensor
    dim: int | None

    def solve(self, value: Tensor, adjoint: bool = False) -> Tensor:
        """(I − hγJ)⁻¹ value, or (I − hγJ)⁻ᵀ value, of the state's shape."""
        lines = value if self.dim is None else value.movedim(self.dim, 0)
        columns = lines.reshape(*self.factors.shape[:2], 1)
        solved = torch.linalg.lu_solve(self.factors, self.pivots, columns, adjoint=adjoint).view_as(lines)
        return solved if self.dim is None else solved.movedim(0, self.dim)


@dataclass(frozen=True)
class Linearisation:
    """The derivative of a field with respect to the state at a point.

    Attributes:
        blocks: (b, n, n), ∂f/∂y.
        dim: The dimension of the state that indexes the blocks; None for a single block.
    """

    blocks: Tensor
    dim: int | None

    def factors(self, weight: float) -> Factors:
        """The LU factors of I − weight·J. For a singular block the factors or solutions are not finite."""
        size = self.blocks.shape[-1]
        matrix = torch.eye(size, dtype=self.blocks.dtype, device=self.blocks.device) - weight * self.blocks
        factors, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        return Factors(factors, pivots, self.dim)


class Jacobian:
    """Computes the Jacobian of a field, with few evaluations if it is block-diagonal.

    If the slices of the state along a dimension are independent, as samples usually are, one backward pass gives a row
    of the Jacobian of every block. Independence is verified: a random direction that is zero in some of the slices must
    have a product that is exactly zero there, for however weakly slices are coupled, Newton's iteration and gradients
    need the true Jacobian. At first each slice is parted from each other one by a direction. Later one of these and its
    complement, in turn, are enough, since their sum must have the product of the blocks up to rounding: a coupling that
    begins later is seen at once if it is strong. The first two dimensions are tried; otherwise the whole state is one
    block.

    A field without a graph, such as that of an adjoint equation, is differentiated by finite differences.

    Attributes:
        evaluations: Number of evaluations; a row of the Jacobian counts as one.
    """

    def __init__(self) -> None:
        self.dims: list[int | None] | None = None
        self.evaluations = 0
        self.number = 0  # of Jacobians with the present dimension

    def at(self, field: Field, t: float, y: Tensor) -> Linearisation:
        """The derivative at (t, y).

        Raises:
            StateError: Linear systems are not available in the state's dtype.
        """
        if y.dtype not in (torch.float32, torch.float64):
            raise StateError(f"implicit solvers need a state of float32 or float64; got {y.dtype}. Give y0.float()")
        if self.dims is None:
            first = sorted(range(min(y.dim(), 2)), key=lambda dim: y.numel() // max(y.shape[dim], 1))  # smallest blocks
            self.dims = [*first, None]
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype).to(y.device)
        with torch.enable_grad():
            state = y.detach().clone().requires_grad_()
            slope = field(state.new_full((), t), state)
        with torch.no_grad():
            while True:
                dim = self.dims[0]
                basis, probes = _basis(y, dim), self._probes(noise, dim)
                directions = torch.cat((basis, probes))
                self._count(field, len(directions))
                if not len(directions):
                    lines = directions  # an empty state
                elif slope.requires_grad:
                    lines = torch.stack([_row(slope, state, direction) for direction in directions])
                else:
                    lines = _differences(field, t, y, slope, directions)
                blocks = _blocks(lines[: len(basis)], dim)
                if dim is None or _independent(blocks, probes, lines[len(basis) :], dim):
                    self.number += 1
                    return Linearisation(blocks if slope.requires_grad else blocks.mT, dim)
                del self.dims[0]
                self.number = 0

    def _probes(self, noise: Tensor, dim: int | None) -> Tensor:
        """(2k, *state), the noise within some slices along a dimension and zero in the others, and k complements."""
        if dim is None:
            return noise.new_empty(0, *noise.shape)
        masks = separating(noise.shape[dim], noise.device)
        if self.number and len(masks):
            masks = masks[self.number % len(masks)][None]
        shape = [1] * noise.dim()
        shape[dim] = noise.shape[dim]
        masks = masks.view(len(masks), *shape)
        return noise * torch.cat((masks, ~masks))

    def by_time(self, field: Field, t: float, y: Tensor, h: float, window: tuple[float, float] | None = None) -> Tensor:
        """(*state), ∂f/∂t at (t, y).

        If the field does not support forward mode, this is a finite difference over a small fraction of the step size
        h, with times inside the window if there is one.
        """
        self._count(field, 1)
        clock = y.new_full((), t)

        def by_clock(time: Tensor) -> Tensor:
            return field(time, y)

        with torch.no_grad():
            with contextlib.suppress(RuntimeError, NotImplementedError):  # of an operation without forward mode
                return along(by_clock, (clock,), (torch.ones_like(clock),))[1].to(y)
            eps = torch.finfo(y.dtype).eps
            step = max(eps ** (1 / 3) * abs(h), 4 * eps * abs(t))
            first, last = window or (-math.inf, math.inf)
            early, late = clock.sub(step).clamp_min(first), clock.add(step).clamp_max(last)
            return (field(late, y) - field(early, y)) / (late - early)

    def _count(self, field: Field, count: int) -> None:
        self.evaluations += count
        if isinstance(field, Counted):
            field.evaluations += count


def _row(slope: Tensor, state: Tensor, direction: Tensor) -> Tensor:
    """(*state), directionᵀ ∂f/∂y."""
    return torch.autograd.grad(slope, state, direction, retain_graph=True, materialize_grads=True)[0]


def _differences(field: Field, t: float, y: Tensor, slope: Tensor, directions: Tensor) -> Tensor:
    """(m, *state), ∂f/∂y times each of m directions, by finite differences."""
    step = torch.finfo(y.dtype).eps ** 0.5 * (1 + float(y.abs().max() if y.numel() else 0.0))
    clock = y.new_full((), t)
    return torch.stack([(field(clock, y.add(direction, alpha=step)) - slope) / step for direction in directions])


def _basis(y: Tensor, dim: int | None) -> Tensor:
    """(n, *state), the n unit directions, of all blocks simultaneously."""
    if dim is None:
        return torch.eye(y.numel(), dtype=y.dtype, device=y.device).view(-1, *y.shape)
    rest = (*y.shape[:dim], *y.shape[dim + 1 :])
    size = torch.Size(rest).numel()
    unit = torch.eye(size, dtype=y.dtype, device=y.device).view(size, *rest)
    return unit.unsqueeze(dim + 1).expand(-1, *y.shape)


def _blocks(lines: Tensor, dim: int | None) -> Tensor:
    """(b, n, n), the blocks, from (n, *state), the values for each unit direction."""
    parts = lines[None] if dim is None else lines.movedim(dim + 1, 0)
    return parts.reshape(*parts.shape[:2], parts.shape[2:].numel())


def _independent(blocks: Tensor, probes: Tensor, products: Tensor, dim: int) -> bool:
    """Whether the products of all probes, (2k, *state), are those of the blocks. A nan is no contradiction."""
    half = len(probes) // 2
    if not half:
        return True
    leaks = (products.abs() > 0) & (probes == 0)
    parts, wanted = (each[0] + each[half] for each in (probes, products))
    parts, wanted = (each.movedim(dim, 0).reshape(len(blocks), 1, blocks.shape[1]) for each in (parts, wanted))
    found = parts @ blocks
    strong = (found - wanted).norm() > torch.finfo(wanted.dtype).eps ** (1 / 3) * found.norm().maximum(wanted.norm())
    return not bool(leaks.any() | strong)


def separating(count: int, device: torch.device) -> Tensor:
    """(k, count), bool: masks by which, and by whose complements, each of `count` slices is parted from each other one.

    They are the bits of the slices' numbers.
    """
    bits = torch.arange(max(count - 1, 0).bit_length(), device=device)
    return (torch.arange(count, device=device) >> bits[:, None]) % 2 == 1
