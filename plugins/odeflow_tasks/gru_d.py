"""GRUD: a recurrent baseline whose inputs and state decay with the time since the last observation."""

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_tasks.autoregressive import Autoregressive
from odeflow_tasks.instance_norm import InstanceNorm
from odeflow_tasks.masking import Masking
from odeflow_tasks.readout import Readout


class GRUD(Autoregressive):
    """A GRU over the observations of a series with missing values, GRU-D.

    With δ, the time since each value was last seen, a missing value is replaced by one between the last seen and a
    level, γ x + (1 − γ) μ with γ = exp(−max(0, w δ + b)), and the hidden state h decays to exp(−max(0, W δ + c)) h
    before each observation. The cell reads the values and the mask of those seen. Values are predicted from the decayed
    state. The level μ, in the source the mean of the training values, is learned and starts at 0, the mean of
    standardised data.

    Source: Che, Purushotham, Cho, Sontag & Liu (2018), "Recurrent Neural Networks for Multivariate Time Series with
        Missing Values", equations 3 to 6.

    Args:
        dim: Length d of an observation; the command line takes it from the data.
        width: Length of the hidden state.
        readout: Decoder, likelihood, classifier and regressor.
        num_classes: Number of classes of the series; the command line takes it from the data.
        num_outputs: Number of outcomes of a series; the command line takes it from the data.
        masking: The values hidden in training.
        instance: Normalisation of each series by its own level and scale; by default none.

    Raises:
        SettingError: An option is missing or out of range.
    """

    def __init__(
        self,
        dim: int | None = None,
        width: int = 25,
        readout: Readout = Readout(),
        num_classes: int | None = None,
        num_outputs: int | None = None,
        masking: Masking = Masking(),
        instance: InstanceNorm = InstanceNorm(),
    ) -> None:
        super().__init__(width, dim, readout, num_classes, masking, num_outputs)
        self.instance, self.width = instance, width
        self.cell = nn.GRUCell(2 * self.dim, width)
        self.level = nn.Parameter(torch.zeros(self.dim))
        self.value_decay = nn.Parameter(torch.zeros(2, self.dim))  # weight and bias of each value
        self.state_decay = nn.Linear(self.dim, width)

    def unroll(self, batch: of.Series) -> tuple[Tensor, Tensor]:
        """(B, T, d), the predictions, and (B, width), the hidden state at the end of each series."""
        h = batch.y.new_zeros(len(batch.y), self.width)
        value, clock = self.level.expand(len(h), -1), batch.t[:, :1].expand(-1, self.dim)
        predictions: list[Tensor] = []
        for t, y, seen in zip(batch.t.unbind(1), batch.y.unbind(1), batch.seen.unbind(1), strict=True):
            gap = t[:, None] - clock
            decayed = h * _decay(self.state_decay(gap))
            predictions.append(self.decoder(decayed))
            share = _decay(self.value_decay[0] * gap + self.value_decay[1])
            read = y.where(seen, share * value + (1 - share) * self.level)
            present = seen.any(1, keepdim=True)
            h = self.cell(torch.cat([read, seen.to(y)], dim=1), decayed).where(present, h)
            value, clock = y.where(seen, value), t[:, None].where(seen, clock)
        return torch.stack(predictions, dim=1), h * _decay(self.state_decay(batch.t[:, -1:] - clock))


def _decay(rate: Tensor) -> Tensor:
    """exp(−max(0, rate))."""
    return (-rate.clamp(min=0)).exp()
