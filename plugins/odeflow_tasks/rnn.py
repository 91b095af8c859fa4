"""RNN: the discrete baseline for irregular time series."""

from typing import Literal

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_tasks.autoregressive import Autoregressive
from odeflow_tasks.instance_norm import InstanceNorm
from odeflow_tasks.masking import Masking
from odeflow_tasks.readout import Readout


class RNN(Autoregressive):
    """A GRU or LSTM whose inputs are the last observation, the mask of its seen values, and the time since.

    It takes one step from each observation to the next, and predicts there. A time without seen values is predicted by
    such a step too, which is then discarded, so that errors do not accumulate. Unseen values of an observation are
    replaced by their prediction. With `rollout` a target without seen values is an observation whose values are all
    predicted, from which the next step is taken, as a forecast of many steps requires.

    Source: Chen et al. (2018), "Neural Ordinary Differential Equations", section 5.1, the baseline.

    Args:
        dim: Length d of an observation; the command line takes it from the data.
        width: Length of the hidden state.
        cell: "gru" or "lstm".
        readout: Decoder, likelihood, classifier and regressor.
        num_classes: Number of classes of the series; the command line takes it from the data.
        num_outputs: Number of outcomes of a series; the command line takes it from the data.
        masking: The values hidden in training.
        instance: Normalisation of each series by its own level and scale; by default none.
        rollout: Whether targets without seen values are steps.

    Raises:
        SettingError: An option is missing or out of range.
    """

    def __init__(
        self,
        dim: int | None = None,
        width: int = 25,
        cell: Literal["gru", "lstm"] = "gru",
        readout: Readout = Readout(),
        num_classes: int | None = None,
        num_outputs: int | None = None,
        masking: Masking = Masking(),
        instance: InstanceNorm = InstanceNorm(),
        rollout: bool = False,
    ) -> None:
        super().__init__(width, dim, readout, num_classes, masking, num_outputs)
        self.instance = instance
        self.width, self.rollout = width, rollout
        self.cell = (nn.GRUCell if cell == "gru" else nn.LSTMCell)(2 * self.dim + 1, width)

    def unroll(self, batch: of.Series) -> tuple[Tensor, Tensor]:
        """(B, T, d), the predictions, and (B, width), the hidden state at the end of each series."""
        y, seen = batch.y, batch.seen
        present, known = (seen | batch.target if self.rollout else seen).any(-1), seen.to(y)
        step = y.new_zeros(len(y), 2 * self.dim)  # the last observation and the mask of its seen values
        state = (y.new_zeros(len(y), self.width),) * (2 if isinstance(self.cell, nn.LSTMCell) else 1)
        clock = batch.t[:, 0]
        predictions: list[Tensor] = []
        for number in range(y.shape[1]):
            now, there = batch.t[:, number], present[:, number, None]
            new = self._stepped(state, step, now - clock)
            predictions.append(self.decoder(new[0]))
            value = y[:, number].where(seen[:, number], predictions[-1])
            step = torch.cat([value, known[:, number]], dim=1).where(there, step)
            state = tuple(after.where(there, before) for after, before in zip(new, state, strict=True))
            clock = now.where(present[:, number], clock)
        return torch.stack(predictions, dim=1), self._stepped(state, step, batch.t[:, -1] - clock)[0]

    def _stepped(self, state: tuple[Tensor, ...], step: Tensor, gap: Tensor) -> tuple[Tensor, ...]:
        """The hidden state, and the cell state of an LSTM, after an observation and a time gap."""
        inputs = torch.cat([step, gap[:, None]], dim=1)
        if isinstance(self.cell, nn.LSTMCell):
            return self.cell(inputs, (state[0], state[1]))
        return (self.cell(inputs, state[0]),)
