"""Reversible: exact discrete gradients at constant memory, by an algebraically reversible solve."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from odeflow.engine.equation.field import full_precision
from odeflow.engine.equation.state import Field, accumulate
from odeflow.engine.gradients.backward import with_backward
from odeflow.engine.gradients.base import Gradient
from odeflow.engine.gradients.reversible_heun import Spans, is_reversible_heun, reversed_heun
from odeflow.engine.loop.adaptive import Adaptive
from odeflow.engine.loop.integrate import run
from odeflow.engine.methods.runge_kutta import RungeKutta
from odeflow.engine.methods.stochastic import StochasticSolver
from odeflow.engine.output.mesh import Mesh
from odeflow.engine.output.solution import Solution, Stats
from odeflow.engine.solver import Solver
from odeflow.engine.step.large import stages_of
from odeflow.engine.step.stages import ExplicitStages, TracedStages
from odeflow.engine.step.tableau import Tableau
from odeflow.engine.tape import Observer
from odeflow.errors import GradientError, SettingError


class Reversible(Gradient):
    """Discretise-then-optimise at constant memory, by an algebraically reversible version of the method.

    With Ψ_h(t, y) the increment of one step of an explicit Runge–Kutta method, a pair that starts at (y₀, y₀) follows

        yₙ₊₁ = λ yₙ + (1 − λ) zₙ + Ψ_h(tₙ, zₙ),        zₙ₊₁ = zₙ − Ψ₋ₕ(tₙ₊₁, yₙ₊₁)

    and can be reversed step by step without stored states. It has the order of the method at twice the number of
    evaluations, and the gradient is that of the discrete solution. Steps end at every output time. If no gradient is
    required, the plain method is used. `ReversibleHeun`, for stochastic equations, is reversible as it is, and its
    steps are undone by its own formulas.

    Source: McCallum & Foster (2024), "Efficient, Accurate and Stable Gradients for Neural ODEs"; Kidger et al. (2021),
    "Efficient and Accurate Gradients for Neural SDEs", for `ReversibleHeun`.

    Args:
        coupling: λ, between 0 and 1. Closer to 1, reversal is more accurate; further from 1, the solve is more stable.

    Raises:
        SettingError: `coupling` is not between 0 and 1.
    """

    needs_params = True
    unsupported = frozenset(
        {
            "dense output and events",
            "jump_ts, or paths with breaks",
            "per_sample=True",
            "norm='max_sample'",
            "solvers other than explicit Runge–Kutta methods and ReversibleHeun",
        }
    )

    def __init__(self, coupling: float = 0.999) -> None:
        if not 0 < coupling <= 1:
            raise SettingError(f"Reversible: coupling must lie above 0 and be at most 1; got {coupling}")
        self.coupling = coupling

    def differentiate(
        self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...], mesh: Mesh | None
    ) -> Solution:
        if is_reversible_heun(solver):
            assert isinstance(solver, StochasticSolver)
            return reversed_heun(solver, field, y0, t, params)
        assert isinstance(solver, RungeKutta)  # others are not supported
        tape = Spans()
        with torch.no_grad():
            stages = _PairStages(solver.tableau, field, y0, self.coupling, judged=isinstance(solver.control, Adaptive))
            control = solver.step_control(float(t[0]), float(t[-1]))
            solution = run(stages, control, torch.stack((y0, y0)), t, Observer(tape=tape))
        solution.stats.nfe_forward = stages.inner.evaluations
        way = _Way(self.coupling, solver.tableau, field, params, solution.stats, tape.steps)
        first = replace(solution, y=solution.y[:, 0].contiguous())
        return with_backward(first, way.backward, y0, params, solution.y[-1].clone())


class _PairStages(ExplicitStages):
    """A reversible step on pairs (2, *state), composed of two steps of the method.

    Args:
        tableau: The method.
        field: The vector field on one state.
        like: A state.
        coupling: λ.
        judged: Whether error estimates are needed.
    """

    ends_at_outputs = True

    def __init__(self, tableau: Tableau, field: Field, like: Tensor, coupling: float, judged: bool) -> None:
        self.inner = stages_of(tableau, field, like)
        super().__init__(tableau, field)
        self.coupling, self.judged = coupling, judged

    def evaluate(self, t: float, y: Tensor) -> Tensor:
        slope = self.inner.evaluate(t, y[1])
        return torch.stack((slope, slope))

    def first_slope(self, t: float, y: Tensor) -> Tensor:
        return self.evaluate(t, y)

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        first, second = y
        inner, coupling = self.inner, self.coupling
        inner.forget_slope()
        forward = inner.step(t, h, second) - second
        end = coupling * first + (1 - coupling) * second + forward
        self.estimate = inner.error() if self.judged else None
        inner.forget_slope()
        backward = inner.step(t + h, -h, end) - end
        return torch.stack((end, second - backward))

    def error(self) -> Tensor:
        assert self.estimate is not None
        return torch.cat((self.estimate, self.estimate))

    def dense(self, theta: Sequence[float]) -> Tensor:
        raise GradientError("a reversible solve stops at its output times; it has no dense output")

    def last_slope(self) -> Tensor:
        raise GradientError("a reversible solve shares no stage derivative between its steps")

    def advance(self) -> None:
        """Steps share no stage derivatives."""


@dataclass(frozen=True)
class _Way:
    """The steps of a solve, for reversal.

    Attributes:
        coupling: λ.
        tableau: The method.
        field: The vector field on one state.
        params: The tensors to differentiate with respect to.
        stats: Statistics of the solve.
        steps: As of `Spans`.
    """

    coupling: float
    tableau: Tableau
    field: Field
    params: tuple[Tensor, ...]
    stats: Stats
    steps: list[tuple[float, float, int | None]]

    def backward(self, grad_y: Tensor, pair: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """(∂L/∂y₀, ∂L/∂θ), from the pair at the end."""
        y, z = pair
        coupling = self.coupling
        adjoint, adjoint_z = torch.zeros_like(y), torch.zeros_like(z)
        grads: list[Tensor | None] = [None] * len(self.params)
        for t, end, row in reversed(self.steps):
            if row is not None:
                adjoint = adjoint + grad_y[row]
            h = end - t
            increment, change = self._increment(t + h, -h, y, -adjoint_z, grads)
            z, adjoint = z + increment, adjoint + change
            increment, change = self._increment(t, h, z, adjoint, grads)
            adjoint_z = adjoint_z + (1 - coupling) * adjoint + change
            y, adjoint = (y - (1 - coupling) * z - increment) / coupling, coupling * adjoint
        return adjoint + adjoint_z + grad_y[0], grads

    def _increment(
        self, t: float, h: float, y: Tensor, adjoint: Tensor, grads: list[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """(Ψ_h(t, y), adjointᵀ ∂Ψ/∂y); adds adjointᵀ ∂Ψ/∂θ to `grads`."""
        with torch.enable_grad(), full_precision(y):
            leaf = y.detach().requires_grad_()
            stages = TracedStages(self.tableau, self.field)
            end = stages.step(t, h, leaf)
            change, *steps = torch.autograd.grad(end, (leaf, *self.params), adjoint, allow_unused=True)
        accumulate(grads, steps)
        self.stats.nfe_backward += stages.evaluations
        return end.detach() - y, change - adjoint
