"""Event: where a function of time and state changes its sign, which may end the solve."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal

import torch
from torch import Tensor

from odeflow.engine.equation.state import S, State
from odeflow.errors import SettingError


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
        count: (B,), how many each sample met, where it has its own clock (`per_sample=True`); else None. Then t is
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
