"""WarmupCosine: a learning-rate schedule over the whole run."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from odeflow.plugin.plugin import check_range


class WarmupCosine(LambdaLR):
    """Linear warm-up, then cosine decay to zero, over the steps of the run.

    The learning rate rises linearly from 1/25 of the optimizer's to the optimizer's over the fraction `warmup` of the
    run, and decays to zero along half a cosine over the rest. It is stepped once per batch.

    Source: Smith & Topin (2019), "Super-Convergence", with the cosine of Loshchilov & Hutter (2017).

    Args:
        optimizer: The optimizer whose learning rates are scaled.
        warmup: Fraction of the run in which the rate rises, in [0, 1).
        total_steps: Number of steps of the run; set by the command line.

    Raises:
        SettingError: `warmup` is not in [0, 1).
    """

    def __init__(self, optimizer: Optimizer, warmup: float = 0.2, total_steps: int | None = None) -> None:
        check_range(self, "[0, 1)", warmup=warmup)
        self.warmup, self.total_steps = warmup, total_steps
        super().__init__(optimizer, self._factor)

    def state_dict(self) -> dict[str, Any]:
        """The state without the number of steps: a resumed run may be longer."""
        return {name: value for name, value in super().state_dict().items() if name != "total_steps"}

    def _factor(self, step: int) -> float:
        if self.total_steps is None:  # not set yet, at construction
            return 1 / 25
        progress = min(1.0, step / self.total_steps)
        if progress < self.warmup:
            return 1 / 25 + (1 - 1 / 25) * progress / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))
