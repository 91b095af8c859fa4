"""Watch: detects sign changes of events at the ends of steps."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from odeflow.engine.equation.state import State
from odeflow.engine.output.event import Event
from odeflow.errors import SettingError


class Watch:
    """Detects sign changes at the ends of steps. Events are always evaluated for the whole batch.

    Args:
        events: The events.
        unpack: Packed state ↦ state in the form that events take.
        per_sample: Whether each sample has a clock: C = B clocks instead of one.
        near: The distance below which times are the same.

    Attributes:
        values: The current values of the events, each () or (B,).
        crossings: For each event its detected sign changes: the indices of the values, (k,), 0 for a scalar event, and
            the indices of the kept steps, (k,).
    """

    def __init__(
        self, events: Sequence[Event], unpack: Callable[[Tensor], State], per_sample: bool, near: float
    ) -> None:
        self.events, self.unpack, self.per_sample, self.near = events, unpack, per_sample, near
        self.values: list[Tensor] = []
        self.crossings: list[list[tuple[Tensor, Tensor]]] = []
        self._begun: Tensor | bool = False  # (C,), whether a clock has taken a step

    def value(self, number: int, t: Tensor, y: Tensor) -> Tensor:
        """The value of an event, () or (B,), at the times t, (C,), and the packed state y.

        Raises:
            SettingError: The value has the wrong shape or dtype.
        """
        event, t = self.events[number], (t if self.per_sample else t.view(())).to(y)
        state = self.unpack(y)
        value = event.fn(t, state)
        if not isinstance(value, Tensor) or not value.is_floating_point():  # pyright: ignore[reportUnnecessaryIsInstance]
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingError(f"an event's value must be a floating-point Tensor that changes its sign; got {kind}")
        batch = (state[0] if isinstance(state, tuple) else state).shape[:1]
        if self.per_sample:
            if value.shape != batch:
                raise SettingError(
                    f"under per_sample=True an event's value must have shape (B,), here {tuple(batch)}: one for each "
                    f"sample, of its own time and state; got {tuple(value.shape)}"
                )
        elif value.shape not in ((), batch) or (event.terminal and value.numel() != 1):
            advice = (
                "A terminal event ends the solve of all samples at once: return one number, such as the minimum "
                "over the samples, or set terminal=False"
                if value.shape == batch
                else "Return one number, or one for each sample"
            )
            raise SettingError(
                f"an event's value must have shape () or (B,), here {tuple(batch)}; got {tuple(value.shape)}. {advice}"
            )
        return value

    def start(self, t: Tensor, y: Tensor) -> None:
        """Starts the solve at the times t, (C,), and the packed state y.

        Raises:
            SettingError: The value of an event is nan.
        """
        self.crossings = [[] for _ in self.events]
        self.values = self._values(t, y)
        for number, value in enumerate(self.values):
            if bool(value.isnan().any()):
                raise self._undefined(number, t)
        self._start, self._begun = t, False

    def _values(self, t: Tensor, y: Tensor) -> list[Tensor]:
        with torch.no_grad():
            state = y.detach()
            return [self.value(number, t, state) for number in range(len(self.events))]

    def sees(self, t: Tensor, y: Tensor, step: Tensor | int, moved: Tensor | bool = True) -> list[tuple[Event, Tensor]]:
        """Checks the ends of steps.

        Args:
            t: (C,), the times.
            y: The packed state there.
            step: (C,), the index of each clock's step if it is kept.
            moved: (C,), the clocks whose step ended.

        Returns:
            The events that changed sign, each with a mask of its values, () or (B,).

        Raises:
            SettingError: The value of an event is nan.
        """
        before, self.values = self.values, self._values(t, y)
        seen: list[tuple[Event, Tensor]] = []
        for number, (event, old, new) in enumerate(zip(self.events, before, self.values, strict=True)):
            crosses = (old.sign() * new.sign() <= 0) & (old != 0)
            if self._begun is not True:
                share = (self.near / (t - self._start).abs()).view(-1 if self.per_sample else ()).to(new)
                crosses &= self._begun | (old.abs() > share * new.abs())  # otherwise it was zero at the start
            if event.direction:
                crosses &= (new - old) * event.direction > 0
            unknown = new.isnan()
            crosses = (crosses | unknown) & moved
            which = crosses.flatten().nonzero().squeeze(1)
            if len(which):
                if bool(unknown.flatten()[which].any()):
                    raise self._undefined(number, t)
                steps = torch.as_tensor(step, device=which.device).expand(old.numel())[which]
                self.crossings[number].append((which, steps))
                seen.append((event, crosses))
        self._begun = self._begun | moved
        return seen

    def _undefined(self, number: int, t: Tensor) -> SettingError:
        """The error that the value of an event is nan at the times t, (C,), of some clocks."""
        value = self.values[number]
        first = int(value.isnan().flatten().int().argmax())
        where = float(t[first if self.per_sample else 0])
        which = f" of sample {first}" if value.dim() else ""
        return SettingError(
            f"the value of event {number}{which} is nan at t = {where:g}: an event is a function that has "
            "a value at all times and states which the solve passes through"
        )
