"""Observer: observes a solve. Its tape records segments, which gradients can rerun."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from odeflow.engine.equation.state import Field, accumulate
from odeflow.engine.output.mesh import Mesh


@dataclass(frozen=True)
class Segment:
    """A segment of a solve that can be rerun, with autograd, from the state at its start.

    Attributes:
        start: (*state), the state at the start.
        rerun: (field, start) ↦ (state at the end, rows inside or None): a pure function.
        rows: Index of the rows of the solution that `rerun` returns.
        end_row: The row of the solution at the end of the segment, if any.
        span: (start time, end time), per sample if each has its own clock.
        dense: θ ↦ the state at the point θ in [0, 1], if requested by the tape.
    """

    start: Tensor
    rerun: Callable[[Field, Tensor], tuple[Tensor, Tensor | None]]
    rows: slice | list[int] | tuple[Tensor, Tensor]
    end_row: int | None
    span: tuple[Any, Any] | None = None
    dense: Callable[[float], Tensor] | None = None


class Tape:
    """The segments of a solve, in order. Override `append` to discard data.

    Args:
        dense: Whether segments provide dense output.
    """

    def __init__(self, dense: bool = False) -> None:
        self.dense = dense
        self.segments: list[Segment] = []

    def append(self, segment: Segment) -> None:
        """Records the next segment."""
        self.segments.append(segment)

    def close(self) -> None:
        """Ends the solve."""


class Quadrature:
    """Integrals of the field's side results along a solution, with the weights of the solver.

    The field stores its side results in `integrand` at every call. They are not under error control.

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
"""(index of the output time, state there) ↦ the state to continue from."""


@dataclass(frozen=True)
class Observer:
    """Optional observers of a solve, independent of each other.

    Attributes:
        mesh: Requests steps, whose polynomials become rows of the solution, for dense output and events.
        tape: Records the segments of the solve, for gradients that rerun them.
        quadrature: Accumulates integrals of the field's side results.
        jump: Replaces the state at each of the times t[1:], where a step then ends.
    """

    mesh: Mesh | None = None
    tape: Tape | None = None
    quadrature: Quadrature | None = None
    jump: Jump | None = None


UNOBSERVED = Observer()
"""No observers."""
