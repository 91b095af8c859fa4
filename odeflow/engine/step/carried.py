"""Steps that reuse values of earlier steps, and segments that carry these."""

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
    """Stages that may carry vector-field values from step to step, besides the state.

    The defaults suit methods that only know the ends of a step: the value at the end, if known, is reused as the first
    of the next step, dense output is cubic Hermite interpolation, and the quadrature is Simpson's rule. The `step` of a
    method starts with `begin` and ends with `finish`.

    Attributes:
        carried: The vector-field values carried into the current step.
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
        """The values carried to the next step."""
        return () if self.last is None else (self.last,)

    def restore(self, carried: tuple[Tensor, ...]) -> None:
        """Prepares a step with values carried from the previous one."""
        self.carried = carried
        self.first, self.last = carried[0] if carried else None, None

    def begin(self, t: float, h: float, y: Tensor) -> None:
        """Records the start of a step."""
        self.t, self.h, self.y, self.last = t, h, y, None

    def finish(self, y1: Tensor) -> Tensor:
        """Records the end of a step."""
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
        """Not used: these methods have a fixed step size."""
        raise NotImplementedError(f"{type(self).__name__} does not estimate its error")

    def keep(self) -> None:
        """Every step makes slopes of its own."""

    def advance(self) -> None:
        self.restore(self.carry())

    def forget_slope(self) -> None:
        self.restore(())


class MemoryTape(Tape):
    """Forwards segments to a tape, with the vector-field values carried into each stacked onto its state.

    Each segment can thus be rerun from its start alone. Nothing is carried into the first segment or out of the last
    one, so that both ends of the chain are plain states.

    Args:
        tape: The tape.
        stages: The stages of the steps.
    """

    def __init__(self, tape: Tape, stages: MemoryStages) -> None:
        super().__init__(tape.dense)
        self.tape, self.stages = tape, stages
        self.pending: Callable[[int], Segment] | None = None

    def append(self, segment: Segment) -> None:
        carried = self.stages.carried
        self.close(len(carried))
        places, rows, span = list(segment.places), segment.rows, segment.span
        assert span is not None  # these steps are common to all samples
        if segment.end_row is not None:
            rows = slice(segment.end_row - len(places), segment.end_row + 1)
            places.append(1.0)
        again = partial(_again, self.stages.traced, self.stages.window, span, places, len(carried))
        packed = torch.stack((segment.start, *carried)) if carried else segment.start
        self.pending = lambda count: replace(
            segment, start=packed, rerun=partial(again, count), rows=rows, end_row=None, places=tuple(places)
        )

    def close(self, count: int = 0) -> None:
        """Forwards the last segment, which carries `count` values to the next."""
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
    """Reruns a step: (state at its end with `left` carried values, states at the points θ).

    Args:
        stages_over: Field ↦ stages.
        window: The times between which the field is evaluated.
        span: (time at the start, time at the end).
        places: The points θ of rows; 1 is the end.
        taken: Number of carried values in `start`.
        left: Number of values carried to the next step.
        field: The vector field.
        start: (*state), or (1 + taken, *state) with carried values.
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
