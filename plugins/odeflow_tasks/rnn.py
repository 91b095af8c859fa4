"""RNN: the discrete baseline for irregular time series."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_tasks.autoregressive import Autoregressive, gaps


class RNN(Autoregressive):
    """A GRU or LSTM whose inputs are the last value, whether it was seen, and the time gone by since.

    Where a value is not seen, the model's own prediction takes its place, so that it runs freely beyond the last
    observation. It learns to do so where training series have such places, or by `free_running`.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", section 5.1, the baseline.

    Args:
        dim: Length d of an observation; the command line takes it from the data.
        width: Length of the hidden state.
        cell: "gru" or "lstm".
        hidden: Widths of the hidden layers of decoder and classifier; linear maps where there are none.
        noise_std: Standard deviation of an observation around its prediction.
        learn_noise: Whether it is learned, from that value, for each feature.
        free_running: Share of the times at which training hides what is seen, to be predicted all the same (scheduled
            sampling, Bengio et al. 2015).
        num_classes: Number of classes of the series; the command line takes it from the data.
        class_weight: Factor of the classes' cross-entropy in the loss; there is a classifier if it is positive.

    Raises:
        SettingError: An option is out of range, or missing.
    """

    def __init__(
        self,
        dim: int | None = None,
        width: int = 25,
        cell: Literal["gru", "lstm"] = "gru",
        hidden: Sequence[int] = (20,),
        noise_std: float = 0.1,
        learn_noise: bool = False,
        free_running: float = 0.0,
        num_classes: int | None = None,
        class_weight: float = 0.0,
    ) -> None:
        super().__init__(width, width, dim, hidden, noise_std, learn_noise, num_classes, class_weight)
        if cell not in ("gru", "lstm"):
            raise of.SettingError(f"RNN: cell must be 'gru' or 'lstm'; got {cell!r}")
        if not 0 <= free_running < 1:
            raise of.SettingError(f"RNN: free_running must lie in [0, 1); got {free_running}")
        self.width, self.free_running = width, free_running
        self.cell = (nn.GRUCell if cell == "gru" else nn.LSTMCell)(2 * self.dim + 1, width)

    def unroll(self, batch: of.Series) -> tuple[Tensor, Tensor]:
        """(B, T, d), the predictions, and (B, width), the hidden state at the end of each series.

        A time at which the series has neither observation nor target, as in the padding, changes nothing.
        """
        real = (batch.seen | batch.target).any(-1, keepdim=True)
        y, seen, elapsed = batch.y, batch.seen, gaps(batch.t)
        if self.training and self.free_running:
            seen = seen & (torch.rand_like(batch.t)[..., None] >= self.free_running)
        h = c = y.new_zeros(len(y), self.width)
        value, known = torch.zeros_like(y[:, 0]), torch.zeros_like(y[:, 0])
        predictions: list[Tensor] = []
        for number in range(y.shape[1]):
            step, there = torch.cat([value, known, elapsed[:, number, None]], dim=1), real[:, number]
            if isinstance(self.cell, nn.LSTMCell):
                new, memory = self.cell(step, (h, c))
                c = memory.where(there, c)
            else:
                new = self.cell(step, h)
            h = new.where(there, h)
            predictions.append(self.decoder(h))
            value = y[:, number].where(seen[:, number], predictions[-1])
            known = seen[:, number].to(y)
        return torch.stack(predictions, dim=1), h
