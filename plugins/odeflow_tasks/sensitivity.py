"""Sensitivities: derivatives of the residuals of trajectories with respect to entries of parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

import odeflow as of
from odeflow_tasks.segments import Segments

if TYPE_CHECKING:
    from odeflow_tasks.trajectory import Trajectory

STEP = 1e-4
"""Step of central differences in x, the unbounded number of a coefficient; relative errors are of order 1e-8."""
LARGEST = 500
"""Maximum number of parameters."""

Entry = tuple[str, int]
"""The name of a tensor of a module, and the index of one of its entries, flattened."""


def linearised(
    task: "Trajectory", batch: of.Series, entries: Sequence[Entry], whole: bool = False
) -> tuple[Tensor, Tensor]:
    """The residuals of a batch and their derivatives with respect to entries of parameters, in float64.

    If the field accepts scalar parameters that differ between samples, the derivatives are central differences of
    copies of the batch, which one solve advances by the same steps. Otherwise each entry takes a solve in forward
    differentiation.

    Args:
        task: The task.
        batch: The batch.
        entries: P entries of its parameters.
        whole: Whether trajectories are whole, without segments.

    Returns:
        (R,) and (R, P).

    Raises:
        SettingError: There are no entries, or too many.
    """
    if not 0 < len(entries) <= LARGEST:
        raise of.SettingError(
            f"least squares needs derivatives by each parameter, of 1 to {LARGEST}; there are {len(entries):,}. Use it "
            "for equations with few parameters, and Adam for networks"
        )
    batch, tensors = batch._replace(y=batch.y.double()), _in_double(task)
    with torch.no_grad():
        segments, _ = task.cut(batch, whole)
        begin = _Method(task, lambda: task.cut(batch, whole)[1])
        states, tangents = _derivatives(begin, tensors, entries)
        scalars = [name for name, _ in entries if not name.startswith("initial.")]
        if _accepts(task, tensors, scalars, _entered(segments, states)):
            starts = _Starts(segments, states, tangents)
            return _by_copies(task, batch, tensors, entries, starts)

        def residuals() -> Tensor:
            segments, states = task.cut(batch, whole)
            return task.residuals_of(batch, segments, states, task.solved(segments, states), batch.y)

        value, columns = _derivatives(_Method(task, residuals), tensors, entries)
    return value, columns.T


class _Starts(NamedTuple):
    """Segments, their initial states (S, B, d), and the derivatives of these (P, S, B, d)."""

    segments: Segments
    states: Tensor
    tangents: Tensor


def _by_copies(
    task: "Trajectory", batch: of.Series, tensors: dict[str, Tensor], entries: Sequence[Entry], starts: _Starts
) -> tuple[Tensor, Tensor]:
    """(R,) and (R, P), by one solve of 2P + 1 copies of the batch, each with a parameter of its own moved."""
    segments, states, tangents = starts
    count, size = len(entries), states.shape[1]
    moves = STEP * torch.eye(count).to(states)
    moves = torch.cat([moves, -moves, torch.zeros_like(moves[:1])])  # (2P + 1, P)
    moved = states[:, None] + torch.einsum("cp,psbd->scbd", moves, tangents)
    values = {
        name: tensors[name] + moves[:, number, None].expand(len(states), -1, size).flatten()
        for number, (name, _) in enumerate(entries)
        if not name.startswith("initial.")
    }
    solve = _Method(task, task.solved)
    solved = solve.at(tensors | values, segments.repeated(len(moves)), moved.flatten(1, 2))
    up, down, middle = solved.unflatten(2, (-1, size)).split([count, count, 1], dim=2)
    changes, zero = (up - down) / (2 * STEP), torch.zeros_like(batch.y)
    residuals = task.residuals_of(batch, segments, states, middle[:, :, 0], batch.y)
    columns = [
        task.residuals_of(batch, segments, tangent, changes[:, :, number], zero)
        for number, tangent in enumerate(tangents)
    ]
    return residuals, torch.stack(columns, dim=1)


class _Method(nn.Module):
    """A module whose `forward` is a method of another one.

    Args:
        module: The module.
        method: Its method, a bound one, not a module.
    """

    def __init__(self, module: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *inputs: Any) -> Any:
        return self.method(*inputs)

    def at(self, tensors: Mapping[str, Tensor], *inputs: Any) -> Any:
        """The result with other values of the module's tensors."""
        return functional_call(self, {f"module.{name}": each for name, each in tensors.items()}, inputs)


def _in_double(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module, detached, in float64."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: each.detach().double() if each.is_floating_point() else each for name, each in named}


def _derivatives(
    method: _Method, tensors: Mapping[str, Tensor], entries: Sequence[Entry], *inputs: Any
) -> tuple[Tensor, Tensor]:
    """The result of a method and its derivatives with respect to each entry in turn.

    Args:
        method: The method, with a result (…).
        tensors: The tensors of its module.
        entries: P entries of them.
        *inputs: The arguments.

    Returns:
        (…) and (P, …).
    """
    value, found = method.at(tensors, *inputs), []
    for name, index in entries:
        tangent = torch.zeros_like(tensors[name])
        tangent.view(-1)[index] = 1.0

        def moved(part: Tensor, name: str = name) -> Tensor:
            return method.at({**tensors, name: part}, *inputs)

        found.append(jvp(moved, (tensors[name],), (tangent,))[1])
    return value, torch.stack(found) if found else value.new_empty(0, *value.shape)


def _entered(segments: Segments, states: Tensor) -> Tensor:
    """(d,), what the field takes at the start of the first segment: the state, inputs and start time."""
    context = segments.context(states.dtype)
    if context is None:
        return states[0, 0]
    given = context if isinstance(context, Tensor) else context(segments.grid[0])
    return torch.cat([states[0, 0], given[0]])


def _accepts(task: "Trajectory", tensors: Mapping[str, Tensor], names: Sequence[str], y: Tensor) -> bool:
    """Whether the field of a task accepts scalar parameters that differ between samples, as arrays (B,).

    Args:
        task: The task.
        tensors: Its tensors.
        names: The names of parameters of the field.
        y: (d,), what the field takes.
    """
    if any(tensors[name].dim() for name in names):
        return False
    prefix, field = "flow.dynamics.", task.flow.dynamics
    own = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
    inner = [name.removeprefix(prefix) for name in names]
    method, count = _Method(field, field.forward), len(y) + 1  # differs from d, so that a wrong axis is noticed
    spread = torch.linspace(0.0, 0.1, count).to(y)
    states, t = y * (1 + spread[:, None]), y.new_zeros(())
    try:
        together = method.at(own | {name: own[name] + spread for name in inner}, t, states)
        apart = [
            method.at(own | {name: own[name] + move for name in inner}, t, state[None])
            for move, state in zip(spread, states, strict=True)
        ]
    except (RuntimeError, IndexError):
        return False
    return len(together) == count and torch.allclose(together, torch.cat(apart), equal_nan=True)
