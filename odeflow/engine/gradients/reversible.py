"""Reversible: exact gradients at constant memory, by a solve that can be run backwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odeflow.engine.equation.field import full_precision
from odeflow.engine.equation.state import Field, accumulate
from odeflow.engine.gradients.base import Gradient
from odeflow.engine.gradients.first_order_only import first_order_only
from odeflow.engine.gradients.times import move_rows, on_fixed_clock
from odeflow.engine.loop.integrate import run
from odeflow.engine.methods.runge_kutta import AdaptiveRungeKutta, ExplicitRungeKutta
from odeflow.engine.output.interpolant import Mesh
from odeflow.engine.output.solution import Solution, Stats
from odeflow.engine.solver import Solver
from odeflow.engine.step.stages import ExplicitStages, TracedStages, stages_of
from odeflow.engine.step.tableau import Tableau
from odeflow.engine.tape import Observer
from odeflow.errors import GradientError, SettingError


class Reversible(Gradient):
    """Discretise, then optimise, at constant memory: the solve itself is replaced by an algebraically reversible one.

    With Ψ_h(t, y) the increment of one step of an explicit Runge–Kutta method, a pair that starts at (y₀, y₀) goes

        yₙ₊₁ = λ yₙ + (1 − λ) zₙ + Ψ_h(tₙ, zₙ),        zₙ₊₁ = zₙ − Ψ₋ₕ(tₙ₊₁, yₙ₊₁)

    and can be taken back step by step without anything stored. It keeps the method's order at twice its evaluations,
    and the gradient is that of what was computed. Steps end at every output time. Where nothing wants a gradient the
    method is run as it is.

    Source: McCallum & Foster (2024), "Efficient, Accurate and Stable Gradients for Neural ODEs".

    Args:
        coupling: λ, between 0 and 1; closer to 1 is more exact backwards, further from it more stable forwards.

    Raises:
        SettingError: λ is out of range.
    """

    needs_params = True

    def __init__(self, coupling: float = 0.999) -> None:
        if not 0 < coupling <= 1:
            raise SettingError(f"Reversible: coupling must lie above 0 and be at most 1; got {coupling}")
        self.coupling = coupling

    def solve(
        self,
        solver: Solver,
        field: Field,
        y0: Tensor,
        t: Tensor,
        params: tuple[Tensor, ...],
        mesh: Mesh | None = None,
    ) -> Solution:
        self.refuse(mesh is not None, "dense output and events")
        if not isinstance(solver, ExplicitRungeKutta):
            raise GradientError(
                f"Reversible needs an explicit Runge–Kutta solver of odeflow; {type(solver).__name__} is none. "
                "Use Dopri5 or RK4, or another gradient"
            )
        self.refuse(bool(solver.jump_ts), "jump_ts: it does not stop at these times")
        self.refuse(solver.per_sample, "per_sample=True: its pairs of states take their steps together")
        self.refuse(isinstance(solver, AdaptiveRungeKutta) and solver.norm != "rms", "norm='max_sample'")
        stats = Stats()
        if not t.requires_grad:
            y = _BackAndForth.apply(self.coupling, solver, field, t, stats, y0, *params)
            return Solution(t, y, stats)  # pyright: ignore[reportArgumentType]
        y = _BackAndForth.apply(self.coupling, solver, on_fixed_clock(field, t), t.detach(), stats, y0, t, *params)
        return Solution(t, move_rows(field, t, y), stats)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class _PairField:
    """A field as seen by pairs (2, *state).

    Attributes:
        field: The vector field on one state.
    """

    field: Field

    def __call__(self, t: Tensor, pair: Tensor) -> Tensor:
        slope = self.field(t, pair[1])
        return torch.stack((slope, slope))


class _PairStages(ExplicitStages):
    """One reversible step on pairs (2, *state), made of two steps of the method.

    Args:
        tableau: The method.
        field: The vector field on one state.
        like: A state.
        coupling: λ.
    """

    def __init__(self, tableau: Tableau, field: Field, like: Tensor, coupling: float) -> None:
        self.inner = stages_of(tableau, field, like)
        super().__init__(tableau, _PairField(field))
        self.coupling = coupling
        self.steps: list[tuple[float, float]] = []  # (start, size) of the accepted ones

    def first_slope(self, t: float, y: Tensor) -> Tensor:
        slope = self.inner.first_slope(t, y[1])
        return torch.stack((slope, slope))

    def step(self, t: float, h: float, y: Tensor) -> Tensor:
        first, second = y
        inner, coupling = self.inner, self.coupling
        inner.forget_slope()
        forward = inner.step(t, h, second) - second
        end = coupling * first + (1 - coupling) * second + forward
        self.estimate = inner.error() if self.tableau.error_weights else None
        inner.forget_slope()
        backward = inner.step(t + h, -h, end) - end
        self.taken = (t, h)
        return torch.stack((end, second - backward))

    def error(self) -> Tensor:
        assert self.estimate is not None
        return torch.cat((self.estimate, self.estimate))

    def dense(self, theta: Sequence[float]) -> Tensor:
        raise GradientError("a reversible solve stops at its output times; it has no dense output")

    def last_slope(self) -> None:
        """No slope is shared between steps."""

    def keep(self) -> None:
        """Nothing to keep."""

    def advance(self) -> None:
        """Each step evaluates its own slopes; the accepted step is noted."""
        self.steps.append(self.taken)


class _BackAndForth(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        coupling: float,
        solver: ExplicitRungeKutta,
        field: Field,
        t: Tensor,
        stats: Stats,
        y0: Tensor,
        *params: Tensor,
    ) -> Tensor:
        stages = _PairStages(solver.tableau, field, y0, coupling)
        last = torch.stack((y0, y0))
        reached: list[int] = []  # the number of steps that led to each row but the first

        def note(number: int, pair: Tensor) -> Tensor:
            nonlocal last
            last = pair
            reached.append(len(stages.steps))
            return pair

        with full_precision(y0):
            solution = run(stages, solver.control(float(t[0]), float(t[-1])), last, t, Observer(jump=note))
        vars(stats).update(vars(solution.stats))
        stats.nfe_forward += stages.inner.evaluations
        ctx.coupling, ctx.tableau, ctx.field, ctx.stats, ctx.params = coupling, solver.tableau, field, stats, params
        ctx.steps, ctx.reached = stages.steps, reached
        ctx.save_for_backward(last)
        return solution.y[:, 0].contiguous()

    @staticmethod
    @first_order_only
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (grad_y,) = grad_outputs
        (pair,) = ctx.saved_tensors
        y, z = pair
        coupling: float = ctx.coupling
        adjoint, adjoint_z = torch.zeros_like(y), torch.zeros_like(z)
        grads: list[Tensor | None] = [None] * len(ctx.params)
        row = len(ctx.reached)
        for number in reversed(range(len(ctx.steps))):
            if row and ctx.reached[row - 1] == number + 1:
                adjoint, row = adjoint + grad_y[row], row - 1
            t, h = ctx.steps[number]
            increment, change = _increment(ctx, t + h, -h, y, -adjoint_z, grads)
            z, adjoint = z + increment, adjoint + change
            increment, change = _increment(ctx, t, h, z, adjoint, grads)
            adjoint_z = adjoint_z + (1 - coupling) * adjoint + change
            y, adjoint = (y - (1 - coupling) * z - increment) / coupling, coupling * adjoint
        return None, None, None, None, None, adjoint + adjoint_z + grad_y[0], *grads


def _increment(
    ctx: Any, t: float, h: float, y: Tensor, adjoint: Tensor, grads: list[Tensor | None]
) -> tuple[Tensor, Tensor]:
    """(Ψ_h(t, y), adjointᵀ ∂Ψ/∂y); adds adjointᵀ ∂Ψ/∂θ to `grads`."""
    with torch.enable_grad(), full_precision(y):
        leaf = y.detach().requires_grad_()
        stages = TracedStages(ctx.tableau, ctx.field)
        end = stages.step(t, h, leaf)
        change, *steps = torch.autograd.grad(end, (leaf, *ctx.params), adjoint, allow_unused=True)
    accumulate(grads, steps)
    ctx.stats.nfe_backward += stages.evaluations
    return end.detach() - y, change - adjoint
