"""Solver: the contract of everything that integrates an equation."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.engine.output.solution import Solution
from odeflow.engine.tape import UNOBSERVED, Observer
from odeflow.plugin.plugin import Plugin


class Solver(Plugin, ABC):
    """Integrates dy/dt = f(t, y) from an initial value. To add a Runge–Kutta method, subclass `RungeKutta` instead."""

    kind = "solver"
    order: int
    """Order p: the global error falls as step size to the power p."""
    shows_steps: ClassVar[bool] = False
    """Whether an observer's mesh and tape get its steps. If not, it is a black box: no dense output or events."""
    jump_ts: tuple[float, ...] = ()
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
        observer: Observer = UNOBSERVED,
    ) -> Solution:
        """The solution at the times t. Under `torch.no_grad` or not: autograd sees through it if it is enabled.

        Most people call `odeflow.solve` or `odeflow.Flow`, which check what they are given and choose a gradient.

        Args:
            field: dy/dt = field(t, y), with t of shape () and y and the result of the shape of y0.
            y0: (*state), contiguous: the state at t[0].
            t: (T,), strictly increasing or strictly decreasing; with `per_sample` also (B, T), a row for each sample.
                No gradient flows to it from here.
            observer: What else is wanted: the steps, segments to run again, integrals on the side, or jumps.

        Returns:
            Solution with y of shape (T, *state).

        Raises:
            SolveError: The integration could not go on.
        """
