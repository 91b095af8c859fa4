"""Steps that reuse values of earlier steps, and segments that carry these."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeflow.engine.equation.clock import same_step
from odeflow.engine.equation.state import Field
from odeflow.engine.step.stages import Stages
from odeflow.engine.tape import Quadrature, Segment, Tape
from odeflow.errors import PluginError


class MemoryStages(Stages):
    """Stages that may carry vector-field values or earlier states from step to step: the base class of a family.

    A method implements two members: `step`, which starts with `begin` and ends with `finish`, and `traced`. The
    defaults of the others suit methods that only know the ends of a step: the vector-field value at the end, if known,
    is reused as the first of the next step, dense output is cubic Hermite interpolation, and the quadrature is
    Simpson's rule.

    - A method with an error estimate implements `error`.
    - A method with its own dense output implements `dense` and `degree`.
    - A multistep method implements `carry` and `restore`. Its `step` reads `carried`, which is empty in the first step
      and after a jump; with `equal_steps` also after a change of the step size.

    Example:
        >>> class EulerStages(of.MemoryStages):
        ...     @property
        ...     def traced(self):
        ...         return partial(EulerStages, self.order)
        ...
        ...     def step(self, t, h, y):
        ...         self.begin(t, h, y)
        ...         return self.finish(y + h * self.first_slope(t, y))

    Args:
        order: Order of the method.
        field: The vector field. Call it through `evaluate`.
        quadrature: Accumulates integrals of the field's side results, if any.

    Attributes:
        carried: The tensors carried into the current step, each of shape (*state).
        t: Time at the start of the step, in the field's time.
        h: Step size, negative backwards in time.
        y: (*state), the state at the start of the step.
        y1: (*state), the state at its end.
    """

    carries = True
    equal_steps: ClassVar[bool] = False
    """Whether the carried tensors are valid only for steps of the same size."""

    def __init__(self, order: int, field: Field, quadrature: Quadrature | None = None) -> None:
        super().__init__(order, field, quadrature)
        self.carried: tuple[Tensor, ...] = ()
        self.first: Tensor | None = None
        self.last: Tensor | None = None
        self.spacing: float | None = None  # size of the previous step

    @property
    def degree(self) -> int:
        return 3

    def carry(self) -> tuple[Tensor, ...]:
        """The tensors carried to the next step, any number of shape (*state).

        Called after `step`. They must depend only on the state at the start of the step and the tensors carried there.
        """
        return () if self.last is None else (self.last,)

    def restore(self, carried: tuple[Tensor, ...]) -> None:
        """Prepares a step with tensors carried from the previous one; by default the vector-field value at its start.

        A method that carries something else overrides it, and sets `first` to None if that value is not among them.
        """
        self.carried = carried
        self.first, self.last = carried[0] if carried else None, None

    def begin(self, t: float, h: float, y: Tensor) -> None:
        """Records the start of a step. With `equal_steps`, discards the carried tensors if the step size changed."""
        if self.equal_steps and self.spacing is not None and abs(h - self.spacing) > same_step(h, t):
            self.forget_slope()
        self.spacing = h
        self.t, self.h, self.y, self.last = t, h, y, None

    def finish(self, y1: Tensor) -> Tensor:
        """Records the end of a step, and returns it."""
        self.y1 = y1
        return y1

    def first_slope(self, t: float, y: Tensor) -> Tensor:
        if self.first is None:
            self.first = self.evaluate(t, y)
        return self.first

    def last_slope(self) -> Tensor:
        if self.last is None:
            self.last = self.evaluate(self.t + self.h, self.y1)
        return self.last

    def dense(self, theta: Sequence[float]) -> Tensor:
        first, last = self.first_slope(self.t, self.y), self.last_slope()
        place = torch.tensor(theta, dtype=torch.float64)
        bend = place.square() * (3 - 2 * place)
        rises = (1 - bend, bend, self.h * place * (1 - place).square(), self.h * place.square() * (place - 1))
        ends = torch.stack((self.y, self.y1, first, last))
        return torch.tensordot(torch.stack(rises, 1).to(ends), ends, 1)

    def add_quadrature(self, h: float) -> None:
        if self.quadrature is not None:
            for place, weight in {0.0: 1 / 6, 0.5: 2 / 3, 1.0: 1 / 6}.items():
                self.evaluate(self.t + place * h, self.dense([place])[0])
                self.quadrature.add(weight * h, self.quadrature.integrand)

    def error(self) -> Tensor:
        """The estimate of the step's error; required of a family whose solvers have an `error_order`.

        Raises:
            PluginError: The family does not implement it.
        """
        raise PluginError(
            f"{type(self).__name__} does not estimate its error: implement `error`, or set the solver's "
            "error_order to None"
        )


class MemoryTape(Tape):
    """Forwards segments to a tape, with what is carried into each stacked onto its state.

    Each segment can thus be rerun from its start alone. Nothing is carried into the first segment or out of the last
    one, so that both ends of the chain are plain states.

    Args:
        tape: The tape.
        stages: The stages of the steps.
    """

    def __init__(self, tape: Tape, stages: Stages) -> None:
        super().__init__(tape.dense)
        self.tape, self.stages = tape, stages
        self.pending: Segment | None = None
        self.taken = 0

    def append(self, segment: Segment) -> None:
        carried = self.stages.carried
        self.close(len(carried))
        self.taken = len(carried)
        self.pending = replace(segment, start=torch.stack((segment.start, *carried))) if carried else segment

    def close(self, left: int = 0) -> None:
        """Forwards the last segment, which leaves a number of values for the next."""
        if self.pending is not None:
            rerun: Callable[..., Any] = self.pending.rerun
            self.tape.append(replace(self.pending, rerun=partial(rerun, taken=self.taken, left=left)))
        self.pending = None
