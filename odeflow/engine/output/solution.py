"""Solution: the states at the requested times, statistics and events, and the error of a failed solve."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, cast

from torch import Tensor

from odeflow.engine.equation.state import S
from odeflow.engine.output.event import Crossings
from odeflow.engine.output.interpolant import DenseOutput, Interpolant, View
from odeflow.engine.output.mesh import Mesh
from odeflow.errors import OdeflowError, PluginError, SettingError


@dataclass
class Stats:
    """Solver statistics. The backward figures are set when the backward pass runs.

    Attributes:
        nfe_forward: Evaluations of the field in the forward pass.
        nfe_backward: Evaluations of the field in the backward pass.
        accepted: Accepted steps of the forward pass.
        rejected: Rejected steps of the forward pass.
        smallest_step: Size of the smallest accepted step, in the field's time; inf before the first.
        largest_step: Size of the largest accepted step.
        suggested_step: A suitable initial step size for a similar solve, if the step size is adaptive.
        fallbacks: Number of solves that exceeded `max_steps` and were repeated with `FlowOptions.fallback_steps`.
        stiffness: h|λ|, the step size times the largest eigenvalue of ∂f/∂y, estimated from the last two stages and
            averaged over every tenth step; None if the method has no estimate or took fewer steps. Well below 1,
            accuracy limits the step size; at about 3, stability does: the problem is stiff, and an implicit solver
            needs fewer steps. With per-sample steps, that of the stiffest sample.
        accepted_per_sample: (B,), accepted steps of each sample, with per-sample steps. `accepted` and `rejected` are
            then those of the sample with the most attempts, which equal the attempts of the whole solve.
        rejected_per_sample: (B,), rejected steps of each sample, with per-sample steps.
        stiffness_per_sample: (B,), h|λ| of each sample, with per-sample steps; nan after fewer than ten steps.
    """

    nfe_forward: int = 0
    nfe_backward: int = 0
    accepted: int = 0
    rejected: int = 0
    smallest_step: float = float("inf")
    largest_step: float = 0.0
    suggested_step: float | None = None
    fallbacks: int = 0
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
class Solution(Generic[S]):
    """The solution of an initial value problem at the requested times.

    Attributes:
        t: (T,), the times, or (B, T) with per-sample times or per-sample terminal events.
        y: (T, *state), or a tuple of such tensors if the state is a tuple.
        stats: The solver statistics.
        events: The occurrences of each event, in the order of the argument `event`.
        interpolant: The dense output, if requested: call the solution itself.
    """

    t: Tensor
    y: S
    stats: Stats = field(default_factory=Stats)
    events: tuple[Crossings[S], ...] = ()
    interpolant: DenseOutput | None = None

    def __call__(self, t: Tensor | float) -> S:
        """The state at the times t, by dense output; differentiable, also with respect to t.

        Args:
            t: () or (m,), between the first and the last time; with per-sample steps also (B, m).

        Returns:
            (*state) or (m, *state), or a tuple of such tensors.

        Raises:
            SettingError: The solve did not set `dense=True`, or a time lies outside the interval.
        """
        if self.interpolant is None:
            raise SettingError("this solution is known only at its times t: solve with dense=True to ask for others")
        return cast(S, self.interpolant(t))

    def select_outputs(
        self: "Solution[Tensor]", mesh: Mesh | None, move: Callable[[Tensor], Tensor] = lambda times: times
    ) -> "Solution[Tensor]":
        """The solution at the requested times, from all rows of a solve.

        Args:
            mesh: The mesh of the solve, if any.
            move: Attaches the gradients of the mesh's times.

        Raises:
            PluginError: The solver did not record its steps.
        """
        if mesh is None:
            return self
        steps = mesh.steps
        if steps is None:
            raise PluginError(
                "the solver declares shows_steps = True, but did not set observer.mesh.steps, which dense output and "
                "events need. Implement it as a Stepper, or leave shows_steps at False"
            )
        interpolant = Interpolant(steps.moved(move), self.y, steps.last)
        return replace(self, t=self.t[..., : len(steps.asked)], y=self.y[steps.asked], interpolant=interpolant)

    def unpacked(self, view: View) -> "Solution[Any]":
        """The same in the public view.

        Args:
            view: (m, *state) ↦ public view, for any m.
        """
        interpolant = None if self.interpolant is None else self.interpolant.unpacked(view)
        return Solution(self.t, view(self.y), self.stats, self.events, interpolant)


class SolveError(OdeflowError, RuntimeError):
    """The integration failed: the step size vanished, the state blew up, or the maximum number of steps was reached.

    Args:
        message: What happened, and what to do.
        broken: The state or vector-field value with non-finite entries, if any.

    Attributes:
        partial: The solution at the requested times that were reached, and at the last time reached; None if there are
            none. With per-sample steps t is (B, T), and rows that a sample did not reach repeat its last time and
            state. It has a gradient only with `Backprop`.
        exhausted: Whether the maximum number of steps was reached.
    """

    def __init__(self, message: str, broken: Tensor | None = None) -> None:
        super().__init__(message)
        self.broken = broken
        self.partial: Solution[Any] | None = None
        self.exhausted = False
