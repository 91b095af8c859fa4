"""WarmupEMA: exponential moving average of the weights, with a warm-up."""

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from odeflow.plugin.plugin import check_range


class WarmupEMA(WeightAveraging):
    """Exponential moving average θ̄ of the weights, with a warm-up: θ̄ ← d θ̄ + (1 − d) θ after every training step.

        d = min(decay, (1 + n) / (10 + n)) in the n-th update

    With a fixed decay of 0.999 the average would follow the initial weights for thousands of steps, so that a short run
    would end with an untrained model. Validation uses the average, and checkpoints contain it.

    Source: TensorFlow's `tf.train.ExponentialMovingAverage`, with `num_updates`.

    Args:
        decay: The decay in the limit of many updates.

    Raises:
        SettingError: `decay` is not in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        check_range(self, "[0, 1)", decay=decay)
        self.decay = decay
        super().__init__(multi_avg_fn=self._average)

    def _average(self, averages: list[Tensor], weights: list[Tensor], updates: Tensor | int) -> None:
        """Updates the averages of weights and buffers in place. Integers, such as counts, are copied."""
        n = int(updates)
        rate = 1 - min(self.decay, (1 + n) / (10 + n))
        for average, weight in zip(averages, weights, strict=True):
            if average.is_floating_point():
                average.lerp_(weight, rate)
            else:
                average.copy_(weight)
