"""Event: a condition on time and state whose meeting is found, noted, and may end the solve."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal

import torch
from torch import Tensor

from odeflow.engine.equation.state import S, State
from odeflow.engine.output.interpolant import JointInterpolant
from odeflow.errors import SettingError

PRECISION = 1e-14  # of the place of an event in its step


@dataclass(frozen=True)
class Event:
    """Where a function of time and state changes its sign.

    A change is seen when a step ends, so that two within one step are missed: bound the steps by `max_step` where that
    matters. An event that is zero at the start, to rounding, as after a restart where one was met, is not met there
    but when it next crosses zero.

    Attributes:
        fn: (t, y) ↦ (), or (B,) with one value for each sample; continuous and differentiable. t and y are as the field
            takes them, but always of the whole batch.
        terminal: Whether the solve ends there. With several samples that share their steps the value must be (); with
            steps of their own it must be (B,), and each sample ends at its own.
        direction: 1 for changes from − to + alone, in the direction of the solve; −1 for those from + to −; 0 for both.
        required: Whether it is an error if the solve reaches its last time without meeting a terminal event.
    """

    fn: Callable[[Tensor, Any], Tensor]
    terminal: bool = True
    direction: Literal[-1, 0, 1] = 0
    required: bool = True

    def __post_init__(self) -> None:
        if self.direction not in (-1, 0, 1):
            raise SettingError(f"an event's direction must be -1, 0 or 1; got {self.direction}")


@dataclass(frozen=True)
class Crossings(Generic[S]):
    """Where a solve met an event, in order of time.

    Attributes:
        t: (K,), the times, differentiable.
        y: (K, *state), the states there; where the event has a value for each sample, (K, *state of one sample).
        sample: (K,), whose they are in that case; else None.
        count: (B,), how many each sample met, where it has steps of its own (`per_sample=True`); else None. Then t is
            (B, K) and y (B, K, *state of one sample), with K the largest of these numbers and nan behind a sample's
            last.
    """

    t: Tensor
    y: S
    sample: Tensor | None = None
    count: Tensor | None = None

    def unpacked(self, unpack: Callable[[Any], State]) -> "Crossings[Any]":
        """The same with unpacked states, and of these only the samples' own."""
        y = unpack(self.y)
        if self.sample is not None:
            chosen = torch.arange(len(self.sample), device=self.sample.device), self.sample
            y = y[chosen] if isinstance(y, Tensor) else tuple(leaf[chosen] for leaf in y)
        return Crossings(self.t, y, self.sample, self.count)


@dataclass(frozen=True)
class Crossing:
    """A change of sign that was seen.

    Attributes:
        event: Number of the event.
        step: Number of the step.
        sample: The sample, where the event has a value for each.
    """

    event: int
    step: int
    sample: int | None


class Watch:
    """Looks for changes of sign at the ends of steps: the observer of a solve with events.

    Args:
        events: What to look for.
        unpack: Packed state ↦ state as the events take it.
    """

    def __init__(self, events: Sequence[Event], unpack: Callable[[Tensor], State]) -> None:
        self.events, self.unpack = events, unpack
        self.values: list[Tensor] = []
        self.crossings: list[Crossing] = []
        self.stopped = False

    def value(self, number: int, t: Tensor, y: Tensor) -> Tensor:
        """The value of an event at the time t, (), and the packed state y.

        Raises:
            SettingError: It has a shape that cannot be.
        """
        event, t = self.events[number], t.to(y)
        state = self.unpack(y)
        value = event.fn(t, state)
        check_value(value)
        batch = (state[0] if isinstance(state, tuple) else state).shape[:1]
        if value.shape not in ((), batch) or (event.terminal and value.numel() != 1):
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

    def start(self, t: float, y: Tensor) -> None:
        self.values = self._values(t, y)

    def _values(self, t: float, y: Tensor) -> list[Tensor]:
        with torch.no_grad():
            state, time = y.detach(), torch.tensor(t, dtype=torch.float64)
            return [self.value(number, time, state) for number in range(len(self.events))]

    def sees(self, number: int, t: float, y: Tensor) -> bool:
        before, self.values = self.values, self._values(t, y)
        known = len(self.crossings)
        for index, (event, old, new) in enumerate(zip(self.events, before, self.values, strict=True)):
            crosses = (old.sign() * new.sign() <= 0) & (old != 0)
            if number == 0:
                crosses &= old.abs() > math.sqrt(torch.finfo(new.dtype).eps) * new.abs()
            if event.direction:
                crosses &= (new - old) * event.direction > 0
            for place in crosses.nonzero().tolist():
                self.crossings.append(Crossing(index, number, place[0] if place else None))
                self.stopped |= event.terminal
        return len(self.crossings) > known

    def locate(self, interpolant: JointInterpolant) -> list[float]:
        """The times of all crossings, by bracketing on their steps' polynomials."""
        steps = [crossing.step for crossing in self.crossings]
        times = torch.tensor(interpolant.mesh.times, dtype=torch.float64)
        start, size = times[steps], times.diff()[steps]
        with torch.no_grad():
            place = roots(lambda place: self._along(self.crossings, start + place * size, interpolant), start)
        return (start + place * size).tolist()

    def _along(self, crossings: Sequence[Crossing], t: Tensor, interpolant: JointInterpolant) -> Tensor:
        """(K,), the values of the crossings' events at the times t, (K,), of the solution."""
        values: list[Tensor] = []
        states = interpolant.at(t, [crossing.step for crossing in crossings])
        for crossing, time, state in zip(crossings, t, states, strict=True):
            value = self.value(crossing.event, time, state)
            values.append(value if crossing.sample is None else value[crossing.sample])
        return torch.stack(values).to(t) if values else t

    def times(self, crossings: Sequence[Crossing], located: Sequence[float], interpolant: JointInterpolant) -> Tensor:
        """(K,), the crossings' times with their gradients, by the implicit function theorem.

        An event g(t, y(t)) = 0 with y(t) the dense output moves with whatever y depends on by δt = −δg / (dg/dt).
        """
        t = torch.tensor(located, dtype=torch.float64)
        if not torch.is_grad_enabled():
            return t
        moving = self._along(crossings, t, interpolant)
        if not moving.requires_grad:
            return t
        clock = t.clone().requires_grad_()
        (rate,) = torch.autograd.grad(self._along(crossings, clock, interpolant.detach()).sum(), clock)
        return t - (moving - moving.detach()) / rate


def check_value(value: object) -> None:
    """Refuses an event's value that is no number that can change its sign.

    Raises:
        SettingError: It is no floating-point Tensor.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise SettingError(f"an event's value must be a floating-point Tensor that changes its sign; got {kind}")


def roots(function: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Zeros between 0 and 1 of functions whose signs differ there, by bisection or inverse quadratic interpolation.

    Source: Chandrupatla (1997), "A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear
    function without using derivatives", Adv. Eng. Softw. 28, 145–149.

    Args:
        function: Place of each ↦ value of each.
        like: As many numbers as there are functions.
    """
    a, b = torch.ones_like(like), torch.zeros_like(like)
    at_a, at_b = function(a), function(b)
    best = torch.where(at_a.abs() <= at_b.abs(), a, b)
    found = ~(at_a * at_b < 0)  # by rounding, the zero lies at an end
    part = torch.full_like(like, 0.5)
    while not bool(found.all()):
        x = a + part * (b - a)
        at_x = function(x)
        beside_a = (at_x > 0) == (at_a > 0)
        c, at_c = torch.where(beside_a, a, b), torch.where(beside_a, at_a, at_b)
        b, at_b = torch.where(beside_a, b, a), torch.where(beside_a, at_b, at_a)
        a, at_a = x, at_x
        best = torch.where(found, best, torch.where(at_a.abs() < at_b.abs(), a, b))
        smallest = PRECISION / (b - a).abs().clamp_min(PRECISION)
        found = found | (at_a == 0) | (smallest > 0.5)
        xi, phi = (a - b) / (c - b), (at_a - at_b) / (at_c - at_b)
        quadratic = at_a / (at_b - at_a) * at_c / (at_b - at_c)
        quadratic = quadratic + (c - a) / (b - a) * at_a / (at_c - at_a) * at_b / (at_c - at_b)
        part = torch.where((phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi), quadratic, 0.5)
        part = part.maximum(smallest).minimum(1 - smallest).where(~found, 0)
    return best
