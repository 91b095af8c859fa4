"""Gradient: the contract of the ways to differentiate through a solve."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.engine.output.interpolant import Mesh
from odeflow.engine.output.solution import Solution
from odeflow.engine.solver import Solver
from odeflow.errors import GradientError
from odeflow.plugin.plugin import Plugin, required


class Gradient(Plugin, ABC):
    """How ∂L/∂y₀, ∂L/∂θ and ∂L/∂t are computed from ∂L/∂y."""

    kind = "gradient"
    needs_params: ClassVar[bool] = required()
    """Whether gradients reach only the parameters that are named, rather than all that the field uses."""

    @abstractmethod
    def solve(
        self,
        solver: Solver,
        field: Field,
        y0: Tensor,
        t: Tensor,
        params: tuple[Tensor, ...],
        mesh: Mesh | None = None,
    ) -> Solution:
        """The solution, with a graph that leads to y0, to t and to the parameters.

        Args:
            solver: Integrates.
            field: The vector field on one Tensor.
            y0: (*state), the state at t[0].
            t: (T,), the times, or (B, T) where each sample has its own.
            params: The other tensors to differentiate with respect to.
            mesh: Notes the steps, for dense output and events.

        Returns:
            Solution with y of shape (T, *state). Its statistics are completed when the backward pass runs.

        Raises:
            GradientError: The gradient cannot do with this solver or these times, nor with dense output and events.
        """

    def refuse(self, when: bool, what: str) -> None:
        """Refuses what only gradients through the steps themselves can do, if it is the case.

        Raises:
            GradientError: It is the case.
        """
        if when:
            raise GradientError(f"{type(self).__name__} does not go with {what}. Use Checkpointed or Backprop")
