"""Gradient: the contract of the ways to differentiate through a solve."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from odeflow.dense import Mesh
from odeflow.errors import GradientError
from odeflow.plugin import Plugin
from odeflow.solver import Solution, Solver
from odeflow.state import Field


class Gradient(Plugin, ABC):
    """How ∂L/∂y₀, ∂L/∂θ and ∂L/∂t are computed from ∂L/∂y."""

    kind = "gradient"
    needs_params: ClassVar[bool]
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
            t: (T,), the times.
            params: What else the field depends on and gradients are wanted for.
            mesh: Notes the steps, for dense output and events.

        Returns:
            Solution with y of shape (T, *state). Its statistics are completed when the backward pass runs.

        Raises:
            GradientError: This gradient cannot differentiate dense output and events.
        """

    def refuse(self, mesh: Mesh | None) -> None:
        """Refuses dense output and events, for gradients that know the solution at the times asked for alone.

        Raises:
            GradientError: They are wanted.
        """
        if mesh is not None:
            raise GradientError(
                f"{type(self).__name__} does not differentiate dense output and events. Use Checkpointed() or "
                "Backprop(), give the times in t instead, or solve under torch.no_grad()"
            )
