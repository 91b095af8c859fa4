"""Dense output: the solution at any time between its first and its last."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from odeflow.engine.equation.field import full_precision, uncompiled
from odeflow.engine.equation.state import State
from odeflow.errors import SettingError

View = Callable[[Any], State]
"""(m, *state) ↦ what people shall see of it, with the same leading dimension."""


@lru_cache(maxsize=32)
def nodes(degree: int) -> tuple[float, ...]:
    """The places θ of a step, 0 and 1 among them, whose values determine a polynomial of this degree: Chebyshev's."""
    if degree == 1:
        return 0.0, 1.0
    return tuple((1 - math.cos(math.pi * number / degree)) / 2 for number in range(degree + 1))


@lru_cache(maxsize=32)
def powers_to_values(degree: int) -> Tensor:
    """(degree + 1, degree + 1): takes 1, θ, θ², … to the weights of the values at the nodes."""
    with torch.inference_mode(False):
        places = torch.tensor(nodes(degree), dtype=torch.float64)
        return torch.linalg.inv(places[:, None] ** torch.arange(degree + 1))


class Observer(Protocol):
    """Sees the steps of a solve as they are accepted."""

    stopped: bool
    """Whether the solve ends with the last step."""

    def start(self, t: float, y: Tensor) -> None:
        """The solve starts at (t, y)."""

    def sees(self, number: int, t: float, y: Tensor) -> bool:
        """Step `number` ended at (t, y); whether its interpolant shall be kept."""
        ...


class Interpolant(ABC):
    """A solution at any time, by the polynomial of the step in which it lies.

    Args:
        views: What people shall see of states, one applied after the other.
    """

    def __init__(self, views: tuple[View, ...] = ()) -> None:
        self.views = views

    @uncompiled
    def __call__(self, t: Tensor | float) -> State:
        """The state at the times t.

        Args:
            t: (), or what `states` takes; inside; may carry a gradient.

        Returns:
            (*state) or (m, *state).

        Raises:
            SettingError: A time lies outside.
        """
        if not isinstance(t, Tensor):
            t = torch.tensor(t, dtype=torch.float64)
        t = t if t.is_floating_point() else t.double()
        state: State = self.states(t if t.dim() else t[None])
        for view in self.views:
            state = view(state)
        if t.dim():
            return state
        return state[0] if isinstance(state, Tensor) else tuple(leaf[0] for leaf in state)

    @abstractmethod
    def states(self, t: Tensor) -> Tensor:
        """(m, *state), the states at the times t, (m,), as solvers know them.

        Raises:
            SettingError: A time lies outside, or t has another shape.
        """

    def unpacked(self, view: View) -> Self:
        """The same, of which people see this."""
        other = copy.copy(self)
        other.views = (*self.views, view)
        return other


class Mesh(ABC):
    """What a solve notes of its steps. The polynomials of those that are kept are rows of the solution, at `nodes`.

    So every gradient that carries rows carries the dense output.

    Attributes:
        asked: The rows at the times that were asked for.
    """

    asked: list[int]

    @abstractmethod
    def interpolant(self, rows: Tensor, move: Callable[[Tensor], Tensor]) -> Interpolant:
        """The solution at any time in the steps that were kept.

        Args:
            rows: (R, *state), all rows of the solution.
            move: Lets times follow whatever they depend on.
        """


class JointMesh(Mesh):
    """What a solve notes of steps that all samples take together.

    Args:
        dense: Whether all steps are kept.
        observer: Sees the steps; may keep some, and end the solve.

    Attributes:
        times: The first time and the end of every step.
        blocks: Number of each kept step, and the first of its rows.
        degree: Degree of the polynomials.
    """

    def __init__(self, dense: bool, observer: Observer | None = None) -> None:
        self.dense, self.observer = dense, observer
        self.times: list[float] = []
        self.asked: list[int] = []
        self.blocks: dict[int, int] = {}
        self.degree = 1

    def start(self, t: float, y: Tensor, degree: int) -> None:
        """The solve starts at (t, y)."""
        self.times, self.degree = [t], degree
        if self.observer is not None:
            self.observer.start(t, y)

    def places(self, t1: float, y1: Tensor) -> tuple[float, ...]:
        """The places θ of a step to (t1, y1) that must become rows."""
        self.times.append(t1)
        kept = self.observer is not None and self.observer.sees(len(self.times) - 2, t1, y1)
        return nodes(self.degree) if kept or self.dense else ()

    @property
    def stopped(self) -> bool:
        """Whether the solve ends with the last step."""
        return self.observer is not None and self.observer.stopped

    def interpolant(self, rows: Tensor, move: Callable[[Tensor], Tensor]) -> "JointInterpolant":
        return JointInterpolant(self, move(torch.tensor(self.times, dtype=torch.float64)), rows)


class JointInterpolant(Interpolant):
    """A solution at any time, where all samples took the same steps.

    Args:
        mesh: The steps.
        times: (N + 1,), the first time and the end of every step.
        rows: (R, *state), the solution's rows, among them those of the kept steps.
        views: What people shall see of states, one applied after the other.
        end: The last time; by default the end of the last step.
    """

    def __init__(
        self, mesh: JointMesh, times: Tensor, rows: Tensor, views: tuple[View, ...] = (), end: float | None = None
    ) -> None:
        super().__init__(views)
        self.mesh, self.times, self.rows = mesh, times, rows
        self.end = mesh.times[-1] if end is None else end

    def states(self, t: Tensor) -> Tensor:
        if t.dim() != 1:
            raise SettingError(f"t must be one time, (), or several, (m,); its shape is {tuple(t.shape)}")
        with full_precision(self.rows):
            return self.at(t, self.steps(t.detach()))

    def steps(self, t: Tensor) -> list[int]:
        """The numbers of the steps in which the times t, (m,), lie."""
        start, sign = self.mesh.times[0], math.copysign(1.0, self.end - self.mesh.times[0])
        slack = 4 * torch.finfo(t.dtype).eps * max(abs(start), abs(self.end))
        outside = ~((sign * (t - start) >= -slack) & (sign * (self.end - t) >= -slack))
        if bool(outside.any()):
            raise SettingError(
                f"t = {float(t[outside][0]):g} lies outside of the solution, which goes from {start:g} to "
                f"{self.end:g}. Solve over a longer interval"
            )
        inner = torch.tensor(self.mesh.times[1:-1], dtype=torch.float64) * sign
        return torch.searchsorted(inner, t.double().cpu() * sign).tolist()

    def at(self, t: Tensor, steps: list[int]) -> Tensor:
        """(m, *state), the states at the times t, (m,), by the polynomials of these steps: one product for each."""
        degree, found = self.mesh.degree, torch.tensor(steps, dtype=torch.long)
        matrix, exponents = powers_to_values(degree), torch.arange(degree + 1)
        t, blocks, order = t.to("cpu", self.times.dtype), list[Tensor](), list[Tensor]()
        for step in sorted(set(steps)):
            (chosen,) = torch.nonzero(found == step, as_tuple=True)
            place = (t[chosen] - self.times[step]) / (self.times[step + 1] - self.times[step])
            first = self.mesh.blocks[step]
            values = self.rows[first : first + degree + 1]
            weights = (place[:, None] ** exponents @ matrix).to(values)
            blocks.append((weights @ values.reshape(degree + 1, -1)).view(len(chosen), *values.shape[1:]))
            order.append(chosen)
        if not blocks:
            return self.rows[:0]
        return torch.cat(blocks)[torch.cat(order).argsort().to(self.rows.device)]

    def detach(self) -> "JointInterpolant":
        """The same values without a gradient."""
        return JointInterpolant(self.mesh, self.times.detach(), self.rows.detach(), self.views, self.end)

    def until(self, end: float) -> "JointInterpolant":
        """The same up to an earlier time."""
        return JointInterpolant(self.mesh, self.times, self.rows, self.views, end)
