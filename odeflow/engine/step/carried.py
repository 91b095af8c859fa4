"""Steps that go on from what earlier ones found, and segments that carry it."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from odeflow.engine.equation.state import Field
from odeflow.engine.step.stages import Stages
from odeflow.engine.tape import Quadrature, Segment, Tape


class MemoryStages(Stages):
    """Stages that may carry slopes from step to step, besides the state.

    What is here does for a method that knows no more of a step than its ends: the slope at the end, if it is known, is
    carried on as the next step's first, dense output is cubic Hermite interpolation, and the quadrature is Simpson's
    rule. A method's `step` begins with `begin` and ends with `finish`.

    Attributes:
        carried: The slopes that the present step got from the last one.
    """

    def __init__(self, order: int, field: Field, quadrature: Quadrature | None = None) -> None:
        super().__init__(order, field, quadrature)
        self.carried: tuple[Tensor, ...] = ()
        self.first: Tensor | None = None
        self.last: Tensor | None = None

    @property
    def degree(self) -> int:
        return 3

    def carry(self) -> tuple[Tensor, ...]:
        """What the next step shall get from this one."""
        return () if self.last is None else (self.last,)

    def restore(self, carried: tuple[Tensor, ...]) -> None:
        """Makes ready for a step that gets this from the last one."""
        self.carried = carried
        self.first, self.last = carried[0] if carried else None, None

    def begin(self, t: float, h: float, y: Tensor) -> None:
        """Notes the step that is taken."""
        self.t, self.h, self.y, self.last = t, h, y, None

    def finish(self, y1: Tensor) -> Tensor:
        """Notes where the step led."""
        self.y1 = y1
        return y1

    @property
    @abstractmethod
    def traced(self) -> Callable[[Field], "MemoryStages"]:
        """A field of the same values ↦ stages of the same method for autograd. It keeps nothing of this solve alive."""

    def first_slope(self, t: float, y: Tensor) -> Tensor:
        if self.first is None:
            self.first = self.evaluate(t, y)
        return self.first

    def last_slope(self) -> None:
        if self.last is None:
            self.last = self.evaluate(self.t + self.h, self.y1)

    def dense(self, theta: Sequence[float]) -> Tensor:
        first = self.first_slope(self.t, self.y)
        self.last_slope()
        assert self.last is not None
        place = torch.tensor(theta, dtype=torch.float64)
        bend = place.square() * (3 - 2 * place)
        rises = (1 - bend, bend, self.h * place * (1 - place).square(), self.h * place.square() * (place - 1))
        ends = torch.stack((self.y, self.y1, first, self.last))
        return torch.tensordot(torch.stack(rises, 1).to(ends), ends, 1)

    def add_quadrature(self, h: float) -> None:
        if self.quadrature is not None:
            for place, weight in {0.0: 1 / 6, 0.5: 2 / 3, 1.0: 1 / 6}.items():
                self.evaluate(self.t + place * h, self.dense([place])[0])
                self.quadrature.add(weight * h, self.quadrature.integrand)

    def error(self) -> Tensor:
        """Nothing asks for it: methods that remember take equal steps."""
        raise NotImplementedError(f"{type(self).__name__} does not estimate its error")

    def keep(self) -> None:
        """Every step makes slopes of its own."""

    def advance(self) -> None:
        self.restore(self.carry())

    def forget_slope(self) -> None:
        self.restore(())


class MemoryTape(Tape):
    """Hands segments on to a tape whose states are stacked with the slopes that were carried into them.

    So each segment can be run again from its start alone. The first one gets no slopes and the last one leaves none,
    so that the ends of the chain are states.

    Args:
        tape: Takes the segments.
        stages: What the steps are made of.
    """

    def __init__(self, tape: Tape, stages: MemoryStages) -> None:
        super().__init__(tape.dense)
        self.tape, self.stages = tape, stages
        self.pending: Callable[[int], Segment] | None = None

    def append(self, segment: Segment) -> None:
        carried = self.stages.carried
        self.close(len(carried))
        places, rows, span = list(segment.places), segment.rows, segment.span
        assert span is not None  # steps with memory are taken by all samples together
        if segment.end_row is not None:
            rows = slice(segment.end_row - len(places), segment.end_row + 1)
            places.append(1.0)
        again = partial(_again, self.stages.traced, self.stages.window, span, places, len(carried))
        packed = torch.stack((segment.start, *carried)) if carried else segment.start
        self.pending = lambda count: replace(
            segment, start=packed, rerun=partial(again, count), rows=rows, end_row=None, places=tuple(places)
        )

    def close(self, count: int = 0) -> None:
        """Hands on the last segment, which leaves so many slopes to the next."""
        if self.pending is not None:
            self.tape.append(self.pending(count))
        self.pending = None


def _again(
    stages_over: Callable[[Field], MemoryStages],
    window: tuple[float, float] | None,
    span: tuple[float, float],
    places: list[float],
    taken: int,
    left: int,
    field: Field,
    start: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """The step once more: (state at its end with `left` slopes, states at the places).

    Args:
        stages_over: Makes the stages over a field.
        window: Between which times the field is evaluated.
        span: (time at the start, time at the end).
        places: Where rows lie, 1 being the end.
        taken: Number of slopes in `start`.
        left: Number of slopes that the next step gets.
        field: The vector field.
        start: (*state), or (1 + taken, *state) if slopes are taken.
    """
    stages = stages_over(field)
    stages.window = window
    y, *carried = start.unbind() if taken else (start,)
    stages.restore(tuple(carried))
    y1 = stages.step(span[0], span[1] - span[0], y)
    inside = [place for place in places if place < 1]
    rows = [stages.dense(inside)] if inside else []
    rows += [y1[None]] * (len(places) - len(inside))
    if left and not stages.carry():
        stages.last_slope()
    end = torch.stack((y1, *stages.carry()[:left])) if left else y1
    return end, torch.cat(rows) if rows else None
