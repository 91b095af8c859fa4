"""Run: a compiled solve, its rows between the steps, and its vector–Jacobian product."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from odeflow.engine.equation.parts import Parts
from odeflow.engine.loop.adaptive import STIFFNESS_EVERY
from odeflow.engine.loop.clocks import same_time
from odeflow.engine.loop.program import Method, Numbers, Weights
from odeflow.engine.output.mesh import Mesh, Steps
from odeflow.engine.output.solution import Solution, Stats

if TYPE_CHECKING:
    from odeflow.engine.loop.compiled import Program

BYTES = 2**25  # of the stage derivatives that rows are made of at once
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Part:
    """A part of a solve: as many steps as a tape has room for.

    Attributes:
        y: (room + 1, *state), the states at the starts of the steps and, behind them, that at the end.
        clock: (room, 4), float64: start, size and end of the steps, and the size of the next.
        steps: Number of steps.
    """

    y: Tensor
    clock: Tensor
    steps: int


@dataclass(frozen=True)
class PartRows:
    """The rows of the solution that belong to a part: a state, and y + Σ w k if the row lies inside a step.

    Attributes:
        states: (m,), the numbers of their states: of that at the start of their step, or at its end.
        inside: (n,), those of the rows that lie inside a step.
        steps: (n,), the numbers of these steps.
        weights: (n, s + 1), the weights w.
    """

    states: Tensor
    inside: Tensor
    steps: Tensor
    weights: Tensor

    @classmethod
    def of(
        cls, times: Array, clock: Array, tolerance: float, theta: Sequence[float], method: Method, like: Tensor
    ) -> "PartRows":
        """The rows of a part: those at the times, then those at the points θ of each step.

        Args:
            times: The requested times in the part.
            clock: (n, 4), as in `Part`.
            tolerance: The largest difference of a time from the end of a step that hits it.
            theta: The points of each step that are rows, too.
            method: The method.
            like: Gives dtype and device.
        """
        starts, sizes, ends, _ = clock.T
        sign = math.copysign(1.0, sizes[0])
        steps = np.searchsorted(sign * ends, sign * times - tolerance)
        hit, place = np.abs(ends[steps] - times) <= tolerance, (times - starts[steps]) / sizes[steps]
        if theta:
            steps = np.concatenate((steps, np.repeat(np.arange(len(clock)), len(theta))))
            hit = np.concatenate((hit, np.zeros(len(clock) * len(theta), bool)))
            place = np.concatenate((place, np.tile(theta, len(clock))))
        (inside,) = np.nonzero(~hit)
        coefficients = _coefficients(method.tableau.interpolation)
        powers = np.vander(place[inside], len(coefficients) + 1, increasing=True)[:, 1:]
        weights = powers @ coefficients * sizes[steps[inside], None]
        states, inside, steps = (
            torch.from_numpy(each).to(like.device) for each in (steps + hit, inside, steps[inside])
        )
        return cls(states, inside, steps, torch.from_numpy(weights).to(like))

    def values(self, part: Part, slopes: Tensor) -> Tensor:
        """(m, *state), the rows.

        Args:
            part: The part.
            slopes: (room, s + 1, *state), the stage derivatives of its steps.
        """
        rows, slopes = part.y.index_select(0, self.states), slopes.flatten(2)
        for some in self._chunks(rows):
            change = (self.weights[some, :, None] * slopes.index_select(0, self.steps[some])).sum(1)
            rows.index_add_(0, self.inside[some], change.view(-1, *rows.shape[1:]))
        return rows

    def pulled(self, grad: Tensor, of_states: Tensor, of_slopes: Tensor) -> None:
        """Adds the gradients to the states and to the stages.

        Args:
            grad: (m, *state), ∂L/∂y of the rows.
            of_states: (room + 1, *state), the former.
            of_slopes: (room, s + 1, *state), the latter.
        """
        of_states.index_add_(0, self.states, grad)
        for some in self._chunks(grad):
            shares = self.weights[some, :, None] * grad.flatten(1).index_select(0, self.inside[some])[:, None]
            of_slopes.flatten(2).index_add_(0, self.steps[some], shares)

    def _chunks(self, rows: Tensor) -> Iterator[slice]:
        """Slices of the rows inside steps whose stage derivatives fit into memory."""
        size = max(1, BYTES // max(1, rows[:1].nbytes * self.weights.shape[1]))
        return (slice(start, start + size) for start in range(0, len(self.inside), size))


@lru_cache(maxsize=32)
def _coefficients(interpolation: tuple[Weights, ...]) -> Array:
    """(d, s + 1), the coefficients of θ, θ² … in the weights of the stages."""
    return np.array(interpolation).T


class Run:
    """A compiled solve.

    Args:
        program: Its program.
        parts: The parts of its field.
        t: (T,), the requested times.
        y0: (*state), the initial state.
        theta: Points θ in [0, 1] of each step whose states are rows; empty without dense output.

    Attributes:
        tape: For each part its number of steps, and its rows; None if the only ones are the first and the last state.
        tensors: The states and the clock of each part, one part behind the other, for `pulled`.
        solution: All rows, without gradient, once the run is finished.
    """

    solution: Solution

    def __init__(self, program: "Program", parts: Parts, t: Tensor, y0: Tensor, theta: tuple[float, ...]) -> None:
        self.program, self.parts, self.t, self.y0, self.theta = program, parts, t, y0, theta
        self.times = t.cpu().double().numpy()
        self.tolerance = same_time(self.times.tolist())
        self.tape: list[tuple[int, PartRows | None]] = []
        self.tensors: list[Tensor] = []
        self.clock: list[Array] = []
        self.blocks, self.asked, self.first_nodes = [y0[None]], [0], [0]
        self.size = 1

    def add(self, part: Part, slopes: Tensor) -> None:
        """Adds a part, and its rows from the stage derivatives (room, s + 1, *state) of its steps."""
        clock = part.clock[: part.steps].cpu().numpy()
        self.clock.append(clock)
        rows = None
        if self.program.method.rows:
            due, sign = self.times[len(self.asked) :], np.sign(self.times[-1] - self.times[0])
            due = due[sign * due <= sign * clock[-1, 2] + self.tolerance]
            rows = PartRows.of(due, clock, self.tolerance, self.theta, self.program.method, part.y)
            self.blocks.append(rows.values(part, slopes))
            self.asked.extend(range(self.size, self.size + len(due)))
            count = len(rows.states)
            self.first_nodes.extend(range(self.size + len(due), self.size + count, max(1, len(self.theta))))
            self.size += count
        self.tape.append((part.steps, rows))
        self.tensors += part.y, part.clock

    def finish(self, end: Numbers[float], y: Tensor, mesh: Mesh | None) -> None:
        """Makes the solution.

        Args:
            end: The numbers of the loop at the end.
            y: (*state), the state there.
            mesh: Receives the steps, if there is one.
        """
        attempts, accepted = int(end.attempts), int(end.accepted)
        clock, method = np.concatenate(self.clock), self.program.method
        sizes, adaptive = np.abs(clock[:, 1]), method.controller is not None
        seen = accepted // STIFFNESS_EVERY if adaptive and method.tableau.stiffness_weights else 0
        stats = Stats(
            nfe_forward=(1 + adaptive) * len(self.tape) + method.stages * attempts,
            accepted=accepted,
            rejected=attempts - accepted,
            smallest_step=float(sizes.min()),
            largest_step=float(sizes.max()),
            suggested_step=abs(float(clock[0, 3])) if adaptive else None,
            stiffness=end.stiffness / seen if seen else None,
        )
        if mesh is not None:
            ends = torch.from_numpy(clock[:, 2:3].copy())
            mesh.steps = Steps(
                asked=self.asked,
                rows=torch.tensor(self.first_nodes[1:])[:, None] + torch.arange(len(self.theta)),
                starts=torch.from_numpy(clock[:, :1].copy()),
                ends=ends,
                count=torch.tensor([accepted]),
                first=torch.from_numpy(self.times[:1]),
                last=ends[-1],
                per_sample=False,
            )
        if not method.rows:
            self.blocks.append(y[None])
        self.solution = Solution(self.t, torch.cat(self.blocks), stats)
        self.blocks = []

    @property
    def params(self) -> tuple[Tensor, ...]:
        """The tensors of the field that require a gradient."""
        return tuple(tensor for tensor in self.parts.tensors if tensor.requires_grad)

    def pulled(self, params: Sequence[Tensor], grad_y: Tensor, *tensors: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """(∂L/∂y₀, ∂L/∂θ) from ∂L/∂y: the vector–Jacobian product of the solve.

        Args:
            params: The tensors θ.
            grad_y: (R, *state), ∂L/∂y.
            tensors: `Run.tensors`.
        """
        program, grads, end = self.program, dict[int, Tensor](), len(grad_y)
        grad = torch.zeros_like(grad_y[0]) if program.method.rows else grad_y[1]
        parts = zip(self.tape, tensors[::2], tensors[1::2], strict=True)
        for (steps, rows), y, clock in reversed(list(parts)):
            of_rows = None
            if rows is not None:
                of_rows = torch.zeros_like(y), y.new_zeros((len(y) - 1, program.stages, *y.shape[1:]))
                start = end - len(rows.states)
                rows.pulled(grad_y[start:end], *of_rows)
                grad, end = grad + of_rows[0][steps], start
            grad, grads = program.pulled(grad, Part(y, clock, steps), of_rows, grads, self.parts)
            self.solution.stats.nfe_backward += steps * (program.method.stages + program.method.rows)
        numbers = {id(tensor): number for number, tensor in enumerate(self.parts.tensors)}
        return grad + grad_y[0], [grads.get(numbers.get(id(param), -1)) for param in params]
