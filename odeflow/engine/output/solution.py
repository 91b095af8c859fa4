"""Solution: the states at the requested times, with its statistics and events, and the error of a solve that failed."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, cast

from torch import Tensor

from odeflow.engine.equation.state import S
from odeflow.engine.output.event import Crossings
from odeflow.engine.output.interpolant import Interpolant, View
from odeflow.engine.output.mesh import Mesh
from odeflow.errors import OdeflowError, SettingError


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
class Solution(Generic[S]):
    """The solution of an initial value problem at the requested times.

    Attributes:
        t: (T,), the times, or (B, T) where each sample has its own, or ends at an event of its own.
        y: (T, *state), or a tuple of such tensors where the state is a tuple.
        stats: What it took.
        events: Where each of the events was met, in the order in which they were given.
        interpolant: The solution at any time, if requested: call the solution itself.
    """

    t: Tensor
    y: S
    stats: Stats = field(default_factory=Stats)
    events: tuple[Crossings[S], ...] = ()
    interpolant: Interpolant | None = None

    def __call__(self, t: Tensor | float) -> S:
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
        return cast(S, self.interpolant(t))

    def select_outputs(
        self: "Solution[Tensor]", mesh: Mesh | None, move: Callable[[Tensor], Tensor] = lambda times: times
    ) -> "Solution[Tensor]":
        """The solution at the requested times, from all rows of a solve that noted its mesh.

        Args:
            mesh: The mesh, if there was one.
            move: Lets the times of the mesh follow whatever they depend on.
        """
        if mesh is None:
            return self
        steps = mesh.steps
        assert steps is not None
        interpolant = Interpolant(steps.moved(move), self.y, steps.last)
        return replace(self, t=self.t[..., : len(steps.asked)], y=self.y[steps.asked], interpolant=interpolant)

    def unpacked(self, view: View) -> "Solution[Any]":
        """The same in its public view.

        Args:
            view: Takes (m, *state) for any m.
        """
        interpolant = None if self.interpolant is None else self.interpolant.unpacked(view)
        return Solution(self.t, view(self.y), self.stats, self.events, interpolant)


class SolveError(OdeflowError, RuntimeError):
    """The integration could not go on: the step size vanished, the state blew up, or the step budget ran out.

    Args:
        message: What happened, and what to do.
        broken: Where a state or slope has entries that are not finite, that state or slope.

    Attributes:
        partial: The solution until there, at those of the requested times that were reached, and at the last time
            reached; None if nothing was. With steps per sample t is (B, T), and rows that a sample did not reach repeat
            its last time and state. It carries a gradient by `Backprop` alone.
    """

    def __init__(self, message: str, broken: Tensor | None = None) -> None:
        super().__init__(message)
        self.broken = broken
        self.partial: Solution[Any] | None = None
