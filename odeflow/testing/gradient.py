"""The laws of gradients."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odeflow.engine.equation.state import State
from odeflow.engine.gradients import Backprop, Gradient
from odeflow.engine.output.solution import Solution
from odeflow.engine.solve import solve
from odeflow.engine.solver import Solver
from odeflow.plugin.registry import find
from odeflow.testing.conformance import Check, all_of, checks_of, relative, require


@dataclass(frozen=True)
class Subject:
    """A gradient under test.

    Attributes:
        gradient: The gradient method.
        solver: A solver with tight tolerances.
        tolerance: Largest relative difference from Backprop.
    """

    gradient: Gradient
    solver: Solver
    tolerance: float


def gradient_checks(gradient: Gradient, *, solver: Solver | None = None, tolerance: float = 1e-6) -> list[Check]:
    """The laws of gradients, each as a check: for `pytest.mark.parametrize("check", …, ids=str)`.

    Args:
        gradient: The gradient method.
        solver: A solver so tight that discrete and continuous gradients agree; by default `Dopri5(1e-10, 1e-10)`.
        tolerance: Largest relative difference from Backprop.
    """
    if solver is None:
        tight = find("solver", "Dopri5")(rtol=1e-10, atol=1e-10)
        assert isinstance(tight, Solver)
        solver = tight
    return checks_of(type(gradient).__name__, Subject(gradient, solver, tolerance), LAWS)


check_gradient = all_of(gradient_checks)
"""Checks all of them, without pytest."""


class _Field(nn.Module):
    """A small nonlinear, time-dependent field in float64. One parameter is frozen and one is unused."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.linspace(-1, 1, 9, dtype=torch.float64).view(3, 3).sin()
        self.weight = nn.Parameter(weight)
        self.decay = nn.Parameter(torch.full((3,), 0.2, dtype=torch.float64), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(2 * t) * torch.tanh(y @ self.weight) - self.decay * y**3


class _Pair(_Field):
    """The same field on a tuple of two tensors."""

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        f = super().forward(t, y[0])
        return f, (f * y[0]).sum(1) - 0.3 * y[1]


def _case(field: _Field, times: tuple[float, ...]) -> tuple[list[Tensor], Tensor]:
    """The leaves of the initial state, and the times, all with `requires_grad`."""
    leaves = [torch.linspace(-1, 1.5, 12, dtype=torch.float64).view(4, 3).cos()]
    if isinstance(field, _Pair):
        leaves.append(torch.linspace(0, 1, 4, dtype=torch.float64))
    return [leaf.requires_grad_() for leaf in leaves], torch.tensor(times, dtype=torch.float64, requires_grad=True)


def _solution(subject: Subject, gradient: Gradient, field: _Field, leaves: list[Tensor], t: Tensor) -> Solution[State]:
    state = tuple(leaves) if len(leaves) > 1 else leaves[0]
    return solve(field, state, t, solver=subject.solver, gradient=gradient)


def _gradients(
    subject: Subject, gradient: Gradient, field: _Field, times: tuple[float, ...]
) -> dict[str, Tensor | None]:
    """The gradients with respect to the leaves of the state, the times and the parameters, by name."""
    leaves, t = _case(field, times)
    y = _solution(subject, gradient, field, leaves, t).y
    loss = torch.zeros((), dtype=torch.float64)
    for leaf in y if isinstance(y, tuple) else (y,):
        loss = loss + (torch.linspace(-1, 2, leaf.numel(), dtype=leaf.dtype).view_as(leaf) * leaf.sin()).sum()
    names = [*(f"y0[{number}]" for number in range(len(leaves))), "t", "weight", "unused"]
    inputs = [*leaves, t, field.weight, field.unused]
    return dict(zip(names, torch.autograd.grad(loss, inputs, allow_unused=True), strict=True))


def _agrees(subject: Subject, field: _Field, times: tuple[float, ...]) -> None:
    """Every gradient agrees with Backprop's."""
    found = _gradients(subject, subject.gradient, field, times)
    for name, truth in _gradients(subject, Backprop(), field, times).items():
        value = found[name]
        if truth is None:
            continue
        error = float("inf") if value is None else relative(value, truth)
        require(
            error < subject.tolerance,
            wanted=f"∂L/∂{name} within {subject.tolerance:g} of Backprop's",
            got="none" if value is None else f"a relative difference of {error:.1e}",
            look="how it is accumulated over the steps" if name == "weight" else "what happens at the output times",
        )


def one_tensor(subject: Subject) -> None:
    """Gradients with respect to a tensor state, all times and the parameters agree with Backprop's."""
    _agrees(subject, _Field(), (0.2, 0.5, 1.1, 1.4))


def tuple_states(subject: Subject) -> None:
    """Gradients with respect to a tuple state agree with Backprop's."""
    _agrees(subject, _Pair(), (0.2, 0.5, 1.1, 1.4))


def back_in_time(subject: Subject) -> None:
    """Gradients of a solve backward in time agree with Backprop's, for a tuple state whose entries all matter."""
    _agrees(subject, _Pair(), (1.4, 0.9, 0.2))


def only_what_was_asked(subject: Subject) -> None:
    """Unused parameters get a zero gradient or none, and frozen parameters get none."""
    field = _Field()
    found = _gradients(subject, subject.gradient, field, (0.2, 1.4))["unused"]
    require(
        found is None or not bool(found.any()),
        wanted="no gradient, or zero, for a parameter that the field does not use",
        got=str(found),
        look="the initial values of the accumulated gradients",
    )
    leaves, t = _case(field, (0.2, 1.4))
    y = _solution(subject, subject.gradient, field, leaves, t).y
    assert isinstance(y, Tensor)
    y.sum().backward()
    require(
        field.decay.grad is None,
        wanted="no gradient for a parameter that requires none",
        got=str(field.decay.grad),
        look="which of the parameters are passed to autograd",
    )


def values(subject: Subject) -> None:
    """The solution does not depend on the gradient method."""
    field, times = _Field(), (0.2, 0.5, 1.4)
    leaves, t = _case(field, times)
    solutions = [_solution(subject, gradient, field, leaves, t).y for gradient in (subject.gradient, Backprop())]
    error = relative(*(torch.as_tensor(y).detach() for y in solutions))
    require(
        error < subject.tolerance,
        wanted=f"Backprop's solution within {subject.tolerance:g}",
        got=f"a relative difference of {error:.1e}",
        look="what its `differentiate` passes on to the solver",
    )


LAWS: tuple[Callable[[Subject], None], ...] = (values, one_tensor, tuple_states, back_in_time, only_what_was_asked)
