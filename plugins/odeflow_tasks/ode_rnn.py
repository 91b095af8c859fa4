"""ODERNN: the autoregressive baseline whose hidden state follows an equation between observations."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_tasks.autoregressive import Autoregressive
from odeflow_tasks.encoder import Between


class ODERNN(Autoregressive):
    """A GRU that reads each observation; in between its hidden state follows dh/dt = f(h), and is decoded anywhere.

    Source: Rubanova et al. (2019), "Latent ODEs for Irregularly-Sampled Time Series", section 3.1.

    Args:
        dynamics: The field f, which should not depend on time; its width is that of the hidden state.
        solver: Integrates it from each time to the next.
        dim: Length d of an observation; the command line takes it from the data.
        hidden: Widths of the hidden layers of decoder and classifier; linear maps where there are none.
        noise_std: Standard deviation of an observation around its prediction.
        learn_noise: Whether it is learned, from that value, for each feature.
        balance: Whether each feature of a series has as much weight in the likelihood, however often it is a target.
        hide: Share of the times at which training hides what is seen, drawn anew for each batch, while targets stay.
        num_classes: Number of classes of the series; the command line takes it from the data.
        class_weight: Factor of the classes' cross-entropy in the loss; there is a classifier if it is positive.

    Raises:
        SettingError: An option is out of range, or missing.
    """

    def __init__(
        self,
        dynamics: of.Dynamics,
        solver: of.Solver,
        dim: int | None = None,
        hidden: Sequence[int] = (20,),
        noise_std: float = 0.1,
        learn_noise: bool = False,
        balance: bool = False,
        hide: float = 0.0,
        num_classes: int | None = None,
        class_weight: float = 0.0,
    ) -> None:
        width = dynamics.width
        super().__init__(width, width, dim, hidden, noise_std, learn_noise, balance, hide, num_classes, class_weight)
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
