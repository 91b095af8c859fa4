"""Growth: a warning when the evaluations of a training step grow without bound."""

from dataclasses import dataclass
from typing import TypedDict

WINDOW = 50
"""Number of training steps whose mean is compared with that of earlier ones."""
FACTOR = 3.0
"""Growth of the mean at which a warning is due, and again at each further one."""


class GrowthState(TypedDict):
    """The attributes of `Growth`, as checkpoints contain them."""

    count: int
    total: int
    least: float
    warned: float


@dataclass
class Growth:
    """Compares the mean number of evaluations over a window of steps with the smallest mean so far.

    Attributes:
        count: Number of steps in the present window.
        total: Their evaluations.
        least: The smallest mean of a finished window; 0 before the first.
        warned: The mean of the last warning; 0 before the first.
    """

    count: int = 0
    total: int = 0
    least: float = 0.0
    warned: float = 0.0

    def add(self, evaluations: int) -> str | None:
        """Counts a step; gives a warning if it ends a window in which evaluations have grown."""
        self.count, self.total = self.count + 1, self.total + evaluations
        if self.count < WINDOW:
            return None
        mean, self.count, self.total = self.total / self.count, 0, 0
        if not self.least or mean < self.least:
            self.least = mean
        if mean < FACTOR * max(self.least, self.warned):
            return None
        self.warned = mean
        return (
            f"the evaluations of a training step grew from {self.least:.0f} to {mean:.0f}: the dynamics become stiff, "
            "or the weights diverge. A regulariser such as Kinetic, weight decay or a smaller learning rate keep them "
            "smooth; faults.evaluations sets a budget, and the solver's max_steps a bound for each solve"
        )

    def plain(self) -> GrowthState:
        """The state as it is stored in a checkpoint."""
        return GrowthState(count=self.count, total=self.total, least=self.least, warned=self.warned)
