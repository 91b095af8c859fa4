"""Location: the zeros of an event function on the dense output of a solve."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from odeflow.engine.output.interpolant import Interpolant
from odeflow.engine.output.mesh import Steps
from odeflow.engine.output.root import roots
from odeflow.engine.output.watch import Watch


@dataclass(frozen=True)
class Location:
    """The sign changes of one event: up to K on each of C clocks.

    Attributes:
        watch: The watch that detected them.
        event: Index of the event.
        steps: (K, C), indices of the kept steps with a sign change.
        which: (K, C), indices of the values that change sign.
        found: (K, C), False for padding. The sign changes of a clock come first, in order of time.
        t: (K, C), the event times.
    """

    watch: Watch
    event: int
    steps: Tensor
    which: Tensor
    found: Tensor
    t: Tensor

    @classmethod
    def of(cls, watch: Watch, event: int, dense: Interpolant) -> "Location":
        """All detected sign changes of an event, located on the polynomials of their steps."""
        steps, which, found = _seen(watch, event, dense.steps)
        clocks = torch.arange(dense.steps.clocks, device=steps.device)
        start, end = dense.steps.starts[steps, clocks], dense.steps.ends[steps, clocks]
        location = cls(watch, event, steps, which, found, start)
        with torch.no_grad():
            theta = roots(lambda theta: location.values(start.lerp(end, theta), dense), start)
        t = start.lerp(end, theta)
        order = (dense.steps.sign * t).where(found, torch.inf).sort(stable=True, dim=0).indices
        steps, which, found, t = (each.gather(0, order) for each in (steps, which, found, t))
        return cls(watch, event, steps, which, found, t)

    def values(self, t: Tensor, dense: Interpolant) -> Tensor:
        """(K, C), the values of the event function at the times t, (K, C)."""
        if not len(t):
            return t
        states = zip(t, dense.at(t, self.steps), strict=True)
        values = torch.stack([self.watch.value(self.event, *each) for each in states]).to(t)
        return values if self.watch.per_sample else values.view(len(t), -1).gather(1, self.which)

    def moving(self, dense: Interpolant) -> Tensor:
        """(K, C), the event times with gradients, by the implicit function theorem.

        The root of g(t, y(t)) = 0 with y(t) the dense output moves with the variables of y by δt = −δg / (dg/dt).
        """
        if not (torch.is_grad_enabled() and len(self.t)):
            return self.t
        value = self.values(self.t, dense)
        if not value.requires_grad:
            return self.t
        clock = self.t.clone().requires_grad_()
        (rate,) = torch.autograd.grad(self.values(clock, dense.detach()).sum(), clock)
        return self.t - (value - value.detach()) / rate.where(self.found, 1)

    def until(self, final: Tensor, sign: Tensor, near: float) -> "Location":
        """The sign changes up to a final time.

        Args:
            final: (C,), the final times, multiplied by the direction.
            sign: (C,), the direction of the solve.
            near: The distance below which times are the same.
        """
        found = self.found & (sign * self.t <= final + near)
        count = int(found.sum(0).max())
        steps, which, t = self.steps[:count], self.which[:count], self.t[:count]
        return replace(self, steps=steps, which=which, found=found[:count], t=t)


def _seen(watch: Watch, event: int, steps: Steps) -> tuple[Tensor, Tensor, Tensor]:
    """(steps, which, found) of a `Location`, in order of the steps."""
    clocks = torch.arange(steps.clocks, device=steps.count.device)
    seen = [(which.to(clocks), step.to(clocks)) for which, step in watch.crossings[event]]
    which, step = (torch.cat((clocks[:0], *each)) for each in (zip(*seen, strict=True) if seen else ((), ())))
    clock, order = (which if steps.per_sample else torch.zeros_like(which)).sort(stable=True)
    number = torch.arange(len(clock), device=clock.device) - torch.searchsorted(clock, clock)  # within its clock
    place, shape = (number, clock), (int(number.max()) + 1 if seen else 0, len(clocks))
    return (
        clocks.new_zeros(shape).index_put(place, step[order]),
        clocks.expand(shape).index_put(place, which[order]),
        clocks.new_zeros(shape).index_put(place, torch.ones_like(clock)).bool(),
    )
