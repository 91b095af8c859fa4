"""Event: a sign change of a function of time and state, which may end the solve."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal

import torch
from torch import Tensor

from odeflow.engine.equation.state import S, State
from odeflow.errors import SettingError

SAME_TIME = 64.0
"""Times that differ by so many roundings of the state's dtype are the same."""


def same_event_time(dtype: torch.dtype, t: Tensor) -> float:
    """The distance below which times of events, or an event's and a requested one, are the same.

    Args:
        dtype: That of the state.
        t: The times of the solve.
    """
    return SAME_TIME * torch.finfo(dtype).eps * float(t.detach().abs().max())


@dataclass(frozen=True)
class Event:
    """A sign change of a function of time and state.

    Sign changes are detected at the ends of steps, so that two within one step are missed: reduce `max_step` if that
    matters. An event function that is zero at the start, up to rounding, does not trigger there but at its next zero
    crossing; nor does an event that has just restarted the solve. Events at the same time, up to rounding, all occur:
    the maps of those that restart are applied in the order in which the events are given.

    Attributes:
        fn: (t, y) ↦ (), or (B,), one value per sample; continuous and differentiable. t and y have the form that the
            field takes, but always for the whole batch.
        terminal: Whether the event ends the solve. If samples share their steps, the value must be (); with
            `per_sample` it must be (B,), and each sample ends at its own event.
        direction: 1 for sign changes from − to + only, in the direction of the solve; −1 for + to −; 0 for both.
        required: Whether it is an error if no terminal event occurs before the last time.
        then: If given, the event does not end the solve, which goes on from (t, y) ↦ the state after the event, such
            as that of a ball that bounces. `terminal` and `required` have no effect. t and y have the form that the
            field takes, always for the whole batch; with per-sample steps only the samples whose event it is go on from
            there, otherwise all do. The state at a requested time that is the event's is the one after it, that in
            `Solution.events` the one before. Gradients go through state and time of the event.

    Example:
        >>> import torch
        >>> import odeflow as of
        >>> from odeflow_solvers import Dopri5
        >>> def fall(t, y):
        ...     return torch.stack((y[:, 1], -torch.ones_like(y[:, 1])), dim=1)
        >>> def bounced(t, y):
        ...     return torch.stack((torch.zeros_like(y[:, 0]), -0.5 * y[:, 1]), dim=1)
        >>> bounce = of.Event(lambda t, y: y[0, 0], direction=-1, then=bounced)
        >>> solution = of.solve(fall, torch.tensor([[0.5, 0.0]]), [0.0, 2.2], solver=Dopri5(), params=(), event=bounce)
        >>> solution.events[0].t  # it falls for 1, rises and falls for 1
        tensor([1.0000, 2.0000], dtype=torch.float64)
    """

    fn: Callable[[Tensor, Any], Tensor]
    terminal: bool = True
    direction: Literal[-1, 0, 1] = 0
    required: bool = True
    then: Callable[[Tensor, Any], Any] | None = None

    def __post_init__(self) -> None:
        if self.direction not in (-1, 0, 1):
            raise SettingError(f"an event's direction must be -1, 0 or 1; got {self.direction}")


@dataclass(frozen=True)
class Crossings(Generic[S]):
    """The occurrences of an event in a solve, in order of time.

    Attributes:
        t: (K,), the event times, differentiable.
        y: (K, *state), the states there; (K, *state of one sample) if the event has one value per sample.
        sample: (K,), the indices of the samples in that case; otherwise None.
        count: (B,), the number of events of each sample with `per_sample=True`; otherwise None. Then t is (B, K) and y
            is (B, K, *state of one sample), with K the largest count, padded with nan.
    """

    t: Tensor
    y: S
    sample: Tensor | None = None
    count: Tensor | None = None

    def unpacked(self, unpack: Callable[[Any], State]) -> "Crossings[Any]":
        """The same with unpacked states, restricted to the sample of each event."""
        y = unpack(self.y)
        if self.sample is not None:
            chosen = torch.arange(len(self.sample), device=self.sample.device), self.sample
            y = y[chosen] if isinstance(y, Tensor) else tuple(leaf[chosen] for leaf in y)
        return Crossings(self.t, y, self.sample, self.count)
