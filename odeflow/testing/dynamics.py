"""The laws of vector fields."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.equation.equation import StochasticField
from odeflow.flow.dynamics import Dynamics
from odeflow.plugin.registry import build
from odeflow.testing.conformance import Check, all_of, checks_of, largest, relative, require


@dataclass(frozen=True)
class Subject:
    """Dynamics under test.

    Attributes:
        dynamics: The vector field.
        y: (B, width, …), an input of a flow with these dynamics.
    """

    dynamics: Dynamics
    y: Tensor

    def value(self, y: Tensor, t: float = 0.5) -> Tensor:
        """The value of the field at the state that a flow solves for, given its input y."""
        state = self.dynamics.enter(y)
        return self.dynamics(state.new_full((), t), state)


def dynamics_checks(dynamics: Dynamics, y: Tensor) -> list[Check]:
    """The laws of vector fields, each as a check: for `pytest.mark.parametrize("check", …, ids=str)`.

    Args:
        dynamics: The vector field, in evaluation mode if its training mode draws random numbers.
        y: (B, width, …), an input of a flow with these dynamics; at least two different samples.
    """
    return checks_of(type(dynamics).__name__, Subject(dynamics, y), LAWS)


check_dynamics = all_of(dynamics_checks)
"""Checks all of them, without pytest."""


def shape_and_dtype(subject: Subject) -> None:
    """The value of the field has the shape and dtype of the state, and is finite."""
    with torch.no_grad():
        state, value = subject.dynamics.enter(subject.y), subject.value(subject.y)
    require(
        value.shape == state.shape and value.dtype == state.dtype,
        wanted=f"a value of the state's {tuple(state.shape)} and {state.dtype}",
        got=f"{tuple(value.shape)} and {value.dtype}",
        look="the last layer's width, and the dtype of what it is added to",
    )
    require(
        bool(value.isfinite().all()),
        wanted="a finite value",
        got=f"{int((~value.isfinite()).sum())} entries that are inf or nan",
        look="divisions, roots and logarithms",
    )


def deterministic(subject: Subject) -> None:
    """The field is deterministic: called again with the same time and state it has the same value."""
    with torch.no_grad():
        first, second = subject.value(subject.y), subject.value(subject.y)
    require(
        torch.equal(first, second),
        wanted="the same value at the same time and state",
        got=f"a difference of {largest(first - second):.1e}",
        look="random numbers and running statistics inside the field: call .eval(), or draw them once a solve",
    )


def samples_apart(subject: Subject) -> None:
    """The value of the field at a sample does not depend on the rest of its batch."""
    with torch.no_grad():
        together, alone = subject.value(subject.y)[:1], subject.value(subject.y[:1])
    require(
        largest(together - alone) <= 1e-4 * max(largest(alone), 1e-6),
        wanted="the same value for a sample alone and in its batch",
        got=f"a difference of {largest(together - alone):.1e}",
        look="batch normalisation and reductions over dimension 0",
    )


def times_apart(subject: Subject) -> None:
    """Called with per-sample times, t of shape (B,), each sample has the value that it has alone at its time."""
    with torch.no_grad():
        alone = torch.cat((subject.value(subject.y[:1], 0.25), subject.value(subject.y[-1:], 0.75)))
        state = subject.dynamics.enter(subject.y)
        try:
            together = subject.dynamics(torch.linspace(0.25, 0.75, len(state)).to(state), state)
            difference = largest(together[[0, -1]] - alone)
            holds, got = difference <= 1e-4 * max(largest(alone), 1e-6), f"a difference of {difference:.1e}"
        except (RuntimeError, ValueError) as problem:
            holds, got = False, str(problem)
    require(
        holds,
        wanted="the value for each sample at its own time, where t is (B,)",
        got=got,
        look="where t meets y: t.view(-1, 1), with as many dimensions as y",
    )


def every_parameter_is_trained(subject: Subject) -> None:
    """Every layer with parameters that require a gradient gets one, from the field or from its diffusion.

    Single parameters of a layer may get none, such as the offset of an energy whose gradient is the field.
    """
    dynamics = subject.dynamics
    named = {name: param for name, param in dynamics.named_parameters() if param.requires_grad}
    if not named:
        return
    value = subject.value(subject.y)
    loss = (value - torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value).to(value)).square().sum()
    if isinstance(dynamics, StochasticField):
        state = dynamics.enter(subject.y)
        loss = loss + (dynamics.diffusion(state.new_zeros(()), state) - 2).square().sum()
    found: tuple[Any, ...] = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    reached = {name.rpartition(".")[0] for name, grad in zip(named, found, strict=True) if grad is not None}
    without = [name for name in named if name.rpartition(".")[0] not in reached]
    require(
        not without,
        wanted="a gradient for every layer's parameters",
        got=f"none for {', '.join(without)}",
        look="layers that `forward` does not use, or whose result it detaches",
    )


def gradient_by_the_state(subject: Subject) -> None:
    """∂f/∂y by autograd, in float64, agrees with central differences along a direction."""
    dynamics = copy.deepcopy(subject.dynamics).double()
    with torch.no_grad():
        y = dynamics.enter(subject.y.double())
    t, eps = y.new_full((), 0.5), 1e-5
    direction = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y).cos()
    start = y.detach().requires_grad_()
    value = dynamics(t, start)
    weights = direction.flip(0)
    found: Tensor | None = None
    if value.requires_grad:
        (found,) = torch.autograd.grad((value * weights).sum(), start, allow_unused=True)
    with torch.no_grad():
        ahead, behind = dynamics(t, y + eps * direction), dynamics(t, y - eps * direction)
    difference = float(((ahead - behind) * weights).sum()) / (2 * eps)
    product = 0.0 if found is None else float((found * direction).sum())
    require(
        abs(product - difference) <= 1e-5 * max(abs(difference), float(value.detach().abs().mean()), 1e-6),
        wanted=f"a derivative along a direction of {difference:.8g}, the central difference",
        got=f"{product:.8g}",
        look="operations that cut the graph, or that are not differentiable",
    )


def divergence(subject: Subject) -> None:
    """A closed-form divergence is the trace of the Jacobian, in float64."""
    dynamics = copy.deepcopy(subject.dynamics).double()
    with torch.no_grad():
        y = dynamics.enter(subject.y.double())
    t = y.new_full((), 0.5)
    closed = dynamics.divergence(t, y)
    if closed is None:
        return

    def flat(sample: Tensor) -> Tensor:
        return dynamics(t, sample.view(1, *y.shape[1:])).flatten()

    traces = [torch.autograd.functional.jacobian(flat, sample.flatten()) for sample in y]
    truth = torch.stack([trace.trace() for trace in traces])  # pyright: ignore[reportAttributeAccessIssue]
    require(
        closed.shape == truth.shape and relative(closed, truth) < 1e-8,
        wanted=f"tr ∂f/∂y, {_few(truth)}",
        got=_few(closed),
        look="the formula in `divergence`",
    )


def _few(values: Tensor) -> str:
    return f"{', '.join(f'{value:.4g}' for value in values.flatten()[:3].tolist())} … of shape {tuple(values.shape)}"


def spec(subject: Subject) -> None:
    """Rebuilt from its spec and weights, the field has the same values, so that checkpoints can store it."""
    dynamics = subject.dynamics
    again = build(dynamics.spec).to(subject.y).train(dynamics.training)
    again.load_state_dict(dynamics.state_dict())
    with torch.no_grad():
        difference = largest(Subject(again, subject.y).value(subject.y) - subject.value(subject.y))
    require(
        difference <= 1e-6,
        wanted="the same field from its spec and weights",
        got=f"values that differ by {difference:.1e}",
        look="what `forward` depends on that is neither an argument, nor a parameter, nor a buffer",
    )


LAWS: tuple[Callable[[Subject], None], ...] = (
    shape_and_dtype,
    deterministic,
    samples_apart,
    times_apart,
    every_parameter_is_trained,
    gradient_by_the_state,
    divergence,
    spec,
)
