"""StochasticControl: adaptive step size control along a Brownian path."""

import math

from torch import Tensor

from odeflow.engine.loop.adaptive import Adaptive, ErrorControl
from odeflow.engine.step.stages import Stages

PARTS = 5  # steps end on a grid of at least 2^PARTS points per step


class StochasticControl(ErrorControl):
    """Error control whose steps end where rejected ones did, and at few different times of the Brownian tree.

    A step is rejected for noise that was large on it. If its end were never visited again, what is known of the path
    there would be forgotten, and the accepted steps would see a path of another law (Gaines & Lyons 1997). Ends are
    rounded to a dyadic grid of the interval, thirty times finer than the step, on which the tree is found quickly.

    Args:
        choice: The tolerances and the bounds of the step size.
        order: Power of h, minus 1, with which the error estimate falls.
        t0: First time.
        t1: Last time.
    """

    def __init__(self, choice: Adaptive, order: float, t0: float, t1: float) -> None:
        super().__init__(choice, order)
        self.t0, self.length = t0, t1 - t0
        self.rejected: list[float] = []  # ends of rejected steps ahead, the next one last
        self.end = t0

    def propose(self, t: float, stop: float) -> float:
        """As in `ErrorControl`, at most to the next end of a rejected step."""
        while self.rejected and self.rejected[-1] <= t:
            self.rejected.pop()
        goal = min(stop, self.rejected[-1]) if self.rejected else stop
        end = super().propose(t, goal)
        if end != goal:
            spacing = self.length / 2.0 ** (math.ceil(math.log2(self.length / (end - t))) + PARTS)
            end = min(self.t0 + round((end - self.t0) / spacing) * spacing, goal)
        self.end = end
        return end

    def accepts(self, stages: Stages, y: Tensor, h: float, y1: Tensor) -> bool:
        """As in `ErrorControl`; remembers the end of a rejected step."""
        accepted = bool(super().accepts(stages, y, h, y1))
        if not accepted:
            self.rejected.append(self.end)
        return accepted
