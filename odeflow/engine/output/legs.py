"""Dense output of a solve that events restarted."""

from dataclasses import dataclass

import torch
from torch import Tensor

from odeflow.engine.equation.state import State, beside
from odeflow.engine.output.interpolant import DenseOutput, Interpolant, check_inside


@dataclass(frozen=True, eq=False)
class Legs(DenseOutput):
    """The solution at any time, by the dense output of the leg that contains it; at a restart, the state after it.

    Attributes:
        parts: The dense output of each leg, of C clocks.
        starts: (L, C), when each leg begins.
        ends: (L, C), when it ends.
        taken: (L, C), whether the clock takes part in the leg; the others repeat what they know.
        near: Distance below which times are the same.
    """

    parts: tuple[Interpolant, ...]
    starts: Tensor
    ends: Tensor
    taken: Tensor
    near: float

    def states(self, t: Tensor) -> State:
        per_sample = self.parts[0].steps.per_sample
        self.parts[0].check_shape(t)
        own = t.to(self.starts).expand(self.starts.shape[1], -1)
        sign = (self.ends - self.starts)[0].sign()[:, None]
        last = self.taken.sum(0) - 1  # a clock that has ended takes no further part
        check_inside(own.detach(), self.starts[0], self.ends.gather(0, last[None])[0], sign, t.dtype, per_sample)
        state: State | None = None
        for part, start, end, taken in zip(self.parts, self.starts, self.ends, self.taken, strict=True):
            inside = own.clamp(torch.minimum(start, end)[:, None], torch.maximum(start, end)[:, None])
            here = part(inside if per_sample else inside[0])
            begun = (taken[:, None] & (sign * (own.detach() - start[:, None]) >= -self.near)).t()
            state = here if state is None else choose(begun if per_sample else begun[:, 0], here, state)
        assert state is not None
        return state


def choose(mask: Tensor, one: State, other: State) -> State:
    """The entries of one state where the mask, (B,), (T,) or (T, B), holds, else those of another."""

    def chosen(first: Tensor, second: Tensor) -> Tensor:
        return first.where(beside(mask, first), second)

    if isinstance(one, tuple) and isinstance(other, tuple):
        return tuple(map(chosen, one, other))
    assert isinstance(one, Tensor)
    assert isinstance(other, Tensor)
    return chosen(one, other)
