"""WarmupCosine: a learning-rate schedule that fits itself to the length of the run."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from odeflow.errors import SettingError


class WarmupCosine(LambdaLR):
    """Warm-up, then a cosine to zero, over exactly the steps of the run.

    The learning rate rises linearly from a 25th of the optimizer's to the optimizer's over the first part of the
    run, and falls to zero along half a cosine over the rest. It is stepped once a batch.

    Source: Smith & Topin (2019), "Super-Convergence", with the cosine of Loshchilov & Hutter (2017).

    Args:
        optimizer: Whose learning rates are scaled.
        warmup: The part of the run in which the rate rises, between 0 and 1.
        total_steps: Number of steps of the run; the command line fills it in.

    Raises:
        SettingError: `warmup` is not between 0 and 1.
    """

    def __init__(self, optimizer: Optimizer, warmup: float = 0.2, total_steps: int | None = None) -> None:
        if not 0 <= warmup < 1:
            raise SettingError(f"WarmupCosine: warmup must lie between 0 and 1; got {warmup}")
        self.warmup, self.total_steps = warmup, total_steps
        super().__init__(optimizer, self._factor)

    def state_dict(self) -> dict[str, Any]:
        """As of every schedule, but for the number of steps: a run that is resumed may be longer."""
        return {name: value for name, value in super().state_dict().items() if name != "total_steps"}

    def _factor(self, step: int) -> float:
        if self.total_steps is None:  # not told yet: at the very start
            return 1 / 25
        progress = min(1.0, step / self.total_steps)
        if progress < self.warmup:
            return 1 / 25 + (1 - 1 / 25) * progress / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))
