"""Gradient: the contract of the ways to differentiate through a solve."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from odeflow.plugin import Plugin
from odeflow.solver import Solution, Solver
from odeflow.state import Field


class Gradient(Plugin, ABC):
    """How ∂L/∂y₀, ∂L/∂θ and ∂L/∂t are computed from ∂L/∂y."""

    kind = "gradient"
    needs_params: ClassVar[bool]
    """Whether gradients reach only the parameters that are named, rather than all that the field uses."""

    @abstractmethod
    def solve(self, solver: Solver, field: Field, y0: Tensor, t: Tensor, params: tuple[Tensor, ...]) -> Solution:
        """The solution, with a graph that leads to y0, to t and to the parameters.

        Args:
            solver: Integrates.
            field: The vector field on one Tensor.
            y0: (*state), the state at t[0].
            t: (T,), the times.
            params: What else the field depends on and gradients are wanted for.

        Returns:
            Solution with y of shape (T, *state). Its statistics are completed when the backward pass runs.
        """
