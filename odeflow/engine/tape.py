"""Observer: what looks on while a solver integrates; its tape lets gradients run the segments again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from odeflow.engine.equation.state import Field, accumulate
from odeflow.engine.output.mesh import Mesh


@dataclass(frozen=True)
class Segment:
    """A stretch of a solve that can be run again, with autograd, from the state at its start.

    Attributes:
        start: (*state), the state where it starts.
        rerun: (field, start) ↦ (state at the end, rows inside or None): pure, so that it gives the same values again.
        rows: Which rows of the solution are computed with it, besides that at its end: what indexes them.
        end_row: The row of the solution that is the state at its end, if there is one.
        span: (time at its start, time at its end), where all samples have the same.
        places: The places θ of the rows inside, each between 0 and 1, likewise.
        dense: θ ↦ the state at the place θ between 0 and 1 of it, where the tape asked for that.
    """

    start: Tensor
    rerun: Callable[[Field, Tensor], tuple[Tensor, Tensor | None]]
    rows: slice | tuple[Tensor, Tensor]
    end_row: int | None
    span: tuple[float, float] | None = None
    places: tuple[float, ...] = ()
    dense: Callable[[float], Tensor] | None = None


class Tape:
    """The segments of a solve, in order. To forget what is not needed, override `append`.

    Args:
        dense: Whether the segments shall keep what their dense output needs.
    """

    def __init__(self, dense: bool = False) -> None:
        self.dense = dense
        self.segments: list[Segment] = []

    def append(self, segment: Segment) -> None:
        """Takes the next segment."""
        self.segments.append(segment)


class Quadrature:
    """Integrals along a solution of what its field computes on the side, with the solver's own weights.

    The field leaves its side results in `integrand` at every call. They take no part in the solver's error control.

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
"""(number of the output time, state there) ↦ the state to go on from."""


@dataclass(frozen=True)
class Observer:
    """What a caller wants of a solve besides its solution, each part on its own.

    Attributes:
        mesh: Asks for steps, whose polynomials become rows of the solution, for dense output and events.
        tape: Takes the segments that the solve consists of, for gradients that run them again.
        quadrature: Takes integrals of the field's side results.
        jump: Replaces the state at each of the times t[1:], so that a step must end there.
    """

    mesh: Mesh | None = None
    tape: Tape | None = None
    quadrature: Quadrature | None = None
    jump: Jump | None = None


UNOBSERVED = Observer()
"""Of a solve that gives its solution alone."""
