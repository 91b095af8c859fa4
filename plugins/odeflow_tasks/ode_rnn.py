"""ODERNN: the autoregressive baseline whose hidden state follows an ODE between observations."""

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_tasks.autoregressive import Autoregressive
from odeflow_tasks.encoder import Between
from odeflow_tasks.instance_norm import InstanceNorm
from odeflow_tasks.masking import Masking
from odeflow_tasks.readout import Readout


class ODERNN(Autoregressive):
    """A GRU over the observations. In between the hidden state follows dh/dt = f(h) and can be decoded at any time.

    Source: Rubanova et al. (2019), "Latent ODEs for Irregularly-Sampled Time Series", section 3.1.

    Args:
        dynamics: The field f, which should be autonomous; its width is that of the hidden state.
        solver: The solver between observations.
        dim: Length d of an observation; the command line takes it from the data.
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
        dynamics: of.Dynamics,
        solver: of.Solver,
        dim: int | None = None,
        readout: Readout = Readout(),
        num_classes: int | None = None,
        num_outputs: int | None = None,
        masking: Masking = Masking(),
        instance: InstanceNorm = InstanceNorm(),
    ) -> None:
        width = dynamics.width
        super().__init__(width, dim, readout, num_classes, masking, num_outputs)
        self.instance = instance
        self.between = Between(dynamics, solver)
        self.cell = nn.GRUCell(2 * self.dim, width)

    def unroll(self, batch: of.Series) -> tuple[Tensor, Tensor]:
        """(B, T, d), the predictions, and (B, width), the hidden state at the end of each series."""
        inputs = torch.cat([batch.y.where(batch.seen, 0.0), batch.seen.to(batch.y)], dim=-1)
        present, elapsed = batch.seen.any(-1, keepdim=True), batch.t.diff(dim=1)
        h = inputs.new_zeros(len(inputs), self.cell.hidden_size)
        predictions: list[Tensor] = []
        for number in range(inputs.shape[1]):
            if number:
                h = self.between(h, elapsed[:, number - 1])
            predictions.append(self.decoder(h))
            h = self.cell(inputs[:, number], h).where(present[:, number], h)
        return torch.stack(predictions, dim=1), h
