"""The laws of gradients through a solver."""

import torch
from torch import Tensor

from odeflow.engine.gradients import Adjoint, Backprop, Checkpointed, Gradient
from odeflow.engine.output.solution import Solution
from odeflow.engine.solve import solve
from odeflow.errors import StateError
from odeflow.testing.conformance import largest, relative, require
from odeflow.testing.problem import Problem
from odeflow.testing.subject import Subject


def _loss(problem: Problem, solution: Solution) -> Tensor:
    y = solution.y
    return (y[1:] * torch.linspace(-1, 2, y[1:].numel(), dtype=y.dtype).view_as(y[1:])).sin().sum()


def _gradients(subject: Subject, steps: int, gradient: Gradient) -> list[Tensor]:
    """∂L/∂y₀ and ∂L/∂θ of a loss of three output times."""
    problem, params = subject.problem, list(subject.problem.field.parameters())
    y0 = problem.solution(problem.t0).requires_grad_()
    t = torch.linspace(problem.t0, problem.t1, 4, dtype=torch.float64)
    solver = subject.stepped(problem.span / steps)
    solution = solve(problem.field, y0, t, solver=solver, gradient=gradient)
    return list(torch.autograd.grad(_loss(problem, solution), [y0, *params]))


def values_under_autograd(subject: Subject) -> None:
    """The solution that autograd records is the one without it, up to rounding."""
    t = torch.linspace(subject.problem.t0, subject.problem.t1, 4, dtype=torch.float64)
    recorded = subject.solve(subject.coarse, t=t, gradient=Backprop()).y
    difference = largest(recorded - subject.solve(subject.coarse, t=t).y)
    require(
        difference < 1e-9,
        wanted="the same solution with Backprop as under torch.no_grad()",
        got=f"a difference of {difference:.1e}",
        look="whatever the solver computes in another way where autograd is on",
    )


def backprop_against_finite_differences(subject: Subject) -> None:
    """Autograd through the solver agrees with central differences of its result."""
    problem, params = subject.problem, list(subject.problem.field.parameters())
    found = _gradients(subject, subject.coarse, Backprop())
    t = torch.linspace(problem.t0, problem.t1, 4, dtype=torch.float64)
    y0 = problem.solution(problem.t0)
    solver, eps = subject.stepped(problem.span / subject.coarse), 1e-5

    def value() -> float:
        with torch.no_grad():
            return float(_loss(problem, solve(problem.field, y0, t, solver=solver)))

    for variable, gradient, name in zip(
        [y0, *params], found, ["y0", *dict(problem.field.named_parameters())], strict=True
    ):
        flat, differences = variable.detach().view(-1), list[float]()
        for place in range(flat.numel()):
            kept = float(flat[place])
            ends: list[float] = []
            for sign in (1, -1):
                flat[place] = kept + sign * eps
                ends.append(value())
            flat[place] = kept
            differences.append((ends[0] - ends[1]) / (2 * eps))
        error = relative(gradient.flatten(), torch.tensor(differences, dtype=torch.float64))
        require(
            error < 1e-6,
            wanted=f"Backprop's gradient of {name} equal to central differences",
            got=f"a relative difference of {error:.1e}",
            look="operations that cut the graph (detach, item, numpy, no_grad) or overwrite what autograd keeps",
        )


def checkpointed_against_backprop(subject: Subject) -> None:
    """The gradient of the steps rerun from the tape is autograd's."""
    pairs = zip(
        _gradients(subject, subject.coarse, Checkpointed()),
        _gradients(subject, subject.coarse, Backprop()),
        strict=True,
    )
    error = max(relative(replayed, plain) for replayed, plain in pairs)
    require(
        error < 1e-8,
        wanted="the gradient that Backprop gives",
        got=f"a relative difference of {error:.1e}",
        look="the tape: each segment's `rerun` must compute the same values again, from its start alone",
    )


def adjoint_against_backprop(subject: Subject) -> None:
    """The continuous adjoint, with quadrature and jumps, is close to the discrete gradient."""
    steps = 4 * subject.coarse
    try:
        found = _gradients(subject, steps, Adjoint())
    except StateError:  # the solver does not support the form of the adjoint equation
        return
    pairs = zip(found, _gradients(subject, steps, Backprop()), strict=True)
    error = max(relative(continuous, plain) for continuous, plain in pairs)
    require(
        error < 0.1,
        wanted=f"a gradient close to that of Backprop with {steps} steps",
        got=f"a relative difference of {error:.1e}",
        look="the observer: its `quadrature` takes the side results of each accepted step with the method's weights; "
        "after its `jump` nothing remembered of the state holds",
    )
