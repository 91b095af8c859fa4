"""Watch: sees the changes of sign of events at the ends of steps."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from odeflow.engine.equation.state import State
from odeflow.engine.output.event import Event
from odeflow.errors import SettingError


class Watch:
    """Looks for changes of sign at the ends of steps. Events always see the whole batch.

    Args:
        events: What to look for.
        unpack: Packed state ↦ state as the events take it.
        per_sample: Whether each sample has a clock; the C clocks are those of the B samples, or one.

    Attributes:
        values: The present values of the events, each () or (B,).
        crossings: For each event, where it was seen to change its sign: the numbers of its values (k,), 0 if it has one
            alone, and those of the kept steps, (k,).
    """

    def __init__(self, events: Sequence[Event], unpack: Callable[[Tensor], State], per_sample: bool) -> None:
        self.events, self.unpack, self.per_sample = events, unpack, per_sample
        self.values: list[Tensor] = []
        self.crossings: list[list[tuple[Tensor, Tensor]]] = []
        self._begun: Tensor | bool = False  # (C,), whether a clock has made a step

    def value(self, number: int, t: Tensor, y: Tensor) -> Tensor:
        """The value of an event, () or (B,), at the times t, (C,), and the packed state y.

        Raises:
            SettingError: The value has a wrong shape or dtype.
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
        """The solve starts at the times t, (C,), in the packed state y."""
        self.crossings, self._begun = [[] for _ in self.events], False
        self.values = self._values(t, y)

    def _values(self, t: Tensor, y: Tensor) -> list[Tensor]:
        with torch.no_grad():
            state = y.detach()
            return [self.value(number, t, state) for number in range(len(self.events))]

    def sees(self, t: Tensor, y: Tensor, step: Tensor | int, moved: Tensor | bool = True) -> list[tuple[Event, Tensor]]:
        """Steps ended.

        Args:
            t: (C,), the times.
            y: The packed state there.
            step: (C,), the number that each clock's step gets if it is kept.
            moved: (C,), whose step ended.

        Returns:
            The events that changed their sign, each with which of its values did, () or (B,).
        """
        before, self.values = self.values, self._values(t, y)
        seen: list[tuple[Event, Tensor]] = []
        for event, known, old, new in zip(self.events, self.crossings, before, self.values, strict=True):
            crosses = (old.sign() * new.sign() <= 0) & (old != 0) & moved
            if self._begun is not True:
                crosses &= self._begun | (old.abs() > math.sqrt(torch.finfo(new.dtype).eps) * new.abs())
            if event.direction:
                crosses &= (new - old) * event.direction > 0
            which = crosses.flatten().nonzero().squeeze(1)
            if len(which):
                known.append((which, torch.as_tensor(step, device=which.device).expand(old.numel())[which]))
                seen.append((event, crosses))
        self._begun = self._begun | moved
        return seen
