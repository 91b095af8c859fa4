"""Solver: the contract of everything that integrates an equation, and what it gives back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from torch import Tensor

from odeflow.dense import Interpolant, Mesh, View
from odeflow.errors import SettingError
from odeflow.event import Crossings
from odeflow.plugin import Plugin
from odeflow.state import Field, State, accumulate


@dataclass
class Stats:
    """What a solve took. The backward figures are filled in when the backward pass runs.

    Attributes:
        nfe_forward: Evaluations of the field in the forward pass.
        nfe_backward: Evaluations of the field in the backward pass.
        accepted: Accepted steps of the forward pass.
        rejected: Rejected steps of the forward pass.
        smallest_step: Size of the smallest accepted step, in the field's time; inf before the first.
        largest_step: Size of the largest accepted step.
        suggested_step: Size of a good first step for a solve like this one, where steps are chosen by their error.
        stiffness: h|λ|, the step size times the field's largest eigenvalue, as the last two stages estimate it, the
            mean over every tenth step; None where the method cannot tell or took fewer. Well below 1 accuracy chooses
            the steps; at about 3 stability does: the problem is stiff, and an implicit solver takes fewer. Where each
            sample has steps of its own, that of the stiffest.
        accepted_per_sample: (B,), accepted steps of each sample, where each has its own. `accepted` and `rejected` are
            then those of the sample that took the most attempts, as many as the whole solve.
        rejected_per_sample: (B,), rejected steps of each sample, likewise.
        stiffness_per_sample: (B,), h|λ| of each sample, likewise; nan where it took fewer than ten steps.
    """

    nfe_forward: int = 0
    nfe_backward: int = 0
    accepted: int = 0
    rejected: int = 0
    smallest_step: float = float("inf")
    largest_step: float = 0.0
    suggested_step: float | None = None
    stiffness: float | None = None
    accepted_per_sample: Tensor | None = field(default=None, compare=False)
    rejected_per_sample: Tensor | None = field(default=None, compare=False)
    stiffness_per_sample: Tensor | None = field(default=None, compare=False)

    def count_step(self, size: float) -> None:
        """Counts an accepted step of this size."""
        self.accepted += 1
        self.smallest_step = min(self.smallest_step, size)
        self.largest_step = max(self.largest_step, size)


@dataclass(frozen=True)
class Solution:
    """The solution of an initial value problem at the times that were asked for.

    Attributes:
        t: (T,), the times, or (B, T) where each sample has its own, or ends at an event of its own.
        y: (T, *state), or a tuple of such tensors where the state is a tuple.
        stats: What it took.
        events: Where each of the events was met, in the order in which they were given.
        interpolant: The solution at any time, if it was asked for: call the solution itself.
    """

    t: Tensor
    y: Tensor | tuple[Tensor, ...]
    stats: Stats = field(default_factory=Stats)
    events: tuple[Crossings, ...] = ()
    interpolant: Interpolant | None = None

    def __call__(self, t: Tensor | float) -> State:
        """The state at the times t, by dense output; differentiable, also with respect to t.

        Args:
            t: () or (m,), between the first time and the last; where the solver steps per sample also (B, m), a row
                for each sample.

        Returns:
            (*state) or (m, *state), or a tuple of such tensors.

        Raises:
            SettingError: The solve was without `dense=True`, or a time lies outside.
        """
        if self.interpolant is None:
            raise SettingError("this solution is known only at its times t: solve with dense=True to ask for others")
        return self.interpolant(t)

    def on(self, mesh: "Mesh | None", move: Callable[[Tensor], Tensor] = lambda times: times) -> "Solution":
        """The solution at the times that were asked for, from all rows of a solve that noted its mesh.

        Args:
            mesh: The mesh, if there was one.
            move: Lets the times of the mesh follow whatever they depend on.

        Raises:
            SettingError: The solver does not show its steps.
        """
        if mesh is None:
            return self
        if not mesh.asked:
            raise SettingError(
                "this solver does not show its steps, so it has neither dense output nor events: "
                "give the times that you need in t, or use a solver of odeflow"
            )
        assert isinstance(self.y, Tensor)
        t, interpolant = self.t[..., : len(mesh.asked)], mesh.interpolant(self.y, move)
        return replace(self, t=t, y=self.y[mesh.asked], interpolant=interpolant)

    def seen(self, view: View) -> "Solution":
        """The same as people shall see it.

        Args:
            view: Takes (m, *state) for any m.
        """
        interpolant = None if self.interpolant is None else self.interpolant.seen(view)
        return replace(self, y=view(self.y), interpolant=interpolant)


@dataclass(frozen=True)
class Segment:
    """A stretch of a solve that can be run again, with autograd, from the state at its start.

    Attributes:
        start: (*state), the state where it starts.
        rerun: (field, start) ↦ (state at the end, rows inside or None): pure, so that it gives the same values again.
        rows: Which rows of the solution are computed with it, besides that at its end: what indexes them.
        end_row: The row of the solution that is the state at its end, if there is one.
        span: (time at its start, time at its end), where all samples have the same.
        places: The places θ of the rows inside, each between 0 and 1, likewise.
        dense: θ ↦ the state at the place θ between 0 and 1 of it, where the tape asked for that.
    """

    start: Tensor
    rerun: Callable[[Field, Tensor], tuple[Tensor, Tensor | None]]
    rows: slice | tuple[Tensor, Tensor]
    end_row: int | None
    span: tuple[float, float] | None = None
    places: tuple[float, ...] = ()
    dense: Callable[[float], Tensor] | None = None


class Tape:
    """The segments of a solve, in order. To forget what is not needed, override `append`.

    Args:
        dense: Whether the segments shall keep what their dense output needs.
        mesh: Notes the steps, and which of them become rows of the solution.
    """

    def __init__(self, dense: bool = False, mesh: Mesh | None = None) -> None:
        self.dense, self.mesh = dense, mesh
        self.segments: list[Segment] = []

    def append(self, segment: Segment) -> None:
        """Takes the next segment."""
        self.segments.append(segment)


class MeshTape(Tape):
    """A tape that keeps its mesh alone."""

    @classmethod
    def of(cls, mesh: Mesh | None) -> Self | None:
        """A tape for a mesh, if there is one."""
        return None if mesh is None else cls(mesh=mesh)

    def append(self, segment: Segment) -> None:
        """Forgets it."""


class Quadrature:
    """Integrals along a solution of what its field computes on the side, with the solver's own weights.

    The field leaves its side results in `integrand` at every call. They take no part in the solver's error control.

    Args:
        size: Number of side results.
    """

    def __init__(self, size: int) -> None:
        self.integrand: Sequence[Tensor | None] = (None,) * size
        self.total: list[Tensor | None] = [None] * size

    def add(self, weight: float, integrand: Sequence[Tensor | None]) -> None:
        """Adds `weight` times the integrand, one term of the quadrature rule. An integrand of None is zero."""
        accumulate(self.total, integrand, weight)


Jump = Callable[[int, Tensor], Tensor]
"""(number of the output time, state there) ↦ the state to go on from."""


class Solver(Plugin, ABC):
    """Integrates dy/dt = f(t, y) from an initial value. To add a Runge–Kutta method, subclass `RungeKutta` instead."""

    kind = "solver"
    order: int
    """Order p: the global error falls as step size to the power p."""
    step_at: tuple[float, ...] = ()
    """Times at which the field jumps, where a step ends."""
    per_sample: bool = False
    """Whether each sample, along dimension 0 of the state, has its own clock: the field's t is then of shape (B,)."""

    def time_resolution(self, span: float) -> float:
        """How finely a field that depends on t must know it in a solve over `span`, in the field's time."""
        return 1e-5 * span

    @abstractmethod
    def integrate(
        self,
        field: Field,
        y0: Tensor,
        t: Tensor,
        *,
        tape: Tape | None = None,
        quadrature: Quadrature | None = None,
        jump: Jump | None = None,
    ) -> Solution:
        """The solution at the times t. Under `torch.no_grad` or not: autograd sees through it if it is enabled.

        Most people call `odeflow.solve` or `odeflow.Flow`, which check what they are given and choose a gradient.

        Args:
            field: dy/dt = field(t, y), with t of shape () and y and the result of the shape of y0.
            y0: (*state), contiguous: the state at t[0].
            t: (T,), strictly increasing or strictly decreasing; with `per_sample` also (B, T), a row for each sample.
                No gradient flows to it from here.
            tape: Takes the segments that the solve consists of, for gradients that run them again.
            quadrature: Takes integrals of the field's side results.
            jump: Replaces the state at each of the times t[1:], so that a step must end there.

        Returns:
            Solution with y of shape (T, *state).

        Raises:
            SolveError: The integration could not go on.
        """
