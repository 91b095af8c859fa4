"""Solver: the contract of solvers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.engine.output.solution import Solution
from odeflow.engine.tape import UNOBSERVED, Observer
from odeflow.errors import SettingError
from odeflow.plugin.plugin import Plugin, expression


class Solver(Plugin, ABC):
    """Integrates dy/dt = f(t, y) from an initial value. To add a Runge–Kutta method, subclass `RungeKutta` instead."""

    kind = "solver"
    order: int
    """Order p: the global error is O(hᵖ)."""
    shows_steps: ClassVar[bool] = False
    """Whether an observer's mesh and tape receive the steps. Otherwise there are no dense output and no events."""
    jump_ts: tuple[float, ...] = ()
    """Times at which the field is discontinuous; a step ends at each."""
    per_sample: bool = False
    """Whether each sample, along dimension 0 of the state, has its own clock. The field's t then has shape (B,)."""

    def __repr__(self) -> str:
        return expression(self)

    def time_resolution(self, span: float) -> float:
        """The required resolution of t in a solve over `span`, in the field's time."""
        return 1e-5 * span

    def stopping_at(self, times: Sequence[float]) -> Self:
        """This solver, for a field that is also discontinuous, or has a kink, at these times: see `jump_ts`.

        Raises:
            SettingError: The solver cannot end a step at given times (the default).
        """
        raise SettingError(
            f"{type(self).__name__} cannot end its steps where the field's input jumps or has a kink, as at "
            f"t = {times[0]:g}. Use a solver of odeflow, or a smooth path, such as Hermite"
        )

    @abstractmethod
    def integrate(
        self,
        field: Field,
        y0: Tensor,
        t: Tensor,
        observer: Observer = UNOBSERVED,
    ) -> Solution:
        """The solution at the times t. Autograd records it if enabled.

        Users call `odeflow.solve` or `odeflow.Flow`, which check their arguments and select a gradient.

        Args:
            field: dy/dt = field(t, y), with t of shape (), and y and the value of the shape of y0.
            y0: (*state), contiguous, the state at t[0].
            t: (T,), strictly increasing or strictly decreasing; with `per_sample` also (B, T), per-sample times. No
                gradient flows to t from here.
            observer: Receives steps, segments and quadrature terms, and applies jumps.

        Returns:
            Solution with y of shape (T, *state).

        Raises:
            SolveError: The integration failed.
        """
