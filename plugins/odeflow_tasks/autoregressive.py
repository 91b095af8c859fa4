"""Autoregressive: the base of the baselines that predict each value from the preceding ones."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow_tasks.instance_norm import InstanceNorm
from odeflow_tasks.seen_rows import seen_rows
from odeflow_tasks.series_task import SeriesTask


class Autoregressive(SeriesTask, ABC):
    """A recurrent network that processes a series forward in time and predicts each value before reading it.

    The loss is the mean of −log p per series, in nats: at each target the log-density of a normal distribution around
    the prediction. An unseen target is predicted from the values seen before it; unlike in a `LatentODE`, later values
    are not used. Classifier and regressor read the last hidden state.

    Attributes:
        instance: Level and scale of each series, to which the network's inputs and outputs are relative.
    """

    instance: InstanceNorm

    @abstractmethod
    def unroll(self, batch: of.Series) -> tuple[Tensor, Tensor]:
        """(B, T, d), the predictions, and (B, width), the hidden state at the end."""

    def predict(self, batch: of.Series) -> Tensor:
        return self._unrolled(batch)[0]

    def _unrolled(self, batch: of.Series) -> tuple[Tensor, Tensor]:
        """As `unroll`, of the normalised series, with predictions in the units of the batch."""
        normalised, scale = self.instance(batch)
        prediction, last = self.unroll(normalised)
        return scale.restored(prediction), last

    def loss(self, batch: of.Series, stage: str) -> Tensor:
        """−log p of the targets and the losses of whole series, weighted; logs the errors in evaluation."""
        batch = self.checked(batch)
        if stage == "train":
            batch = self.masking(batch, self.current_epoch)
        if not self.target_weight:
            return torch.as_tensor(self.whole_loss(self.whole_state(batch), batch, stage))
        prediction, last = self._unrolled(batch)
        if stage != "train":
            self.note_errors(prediction, batch, stage)
            self.note_coverage(prediction[None], batch, stage)
        log_likelihood = self.target_weight * self.log_likelihood(prediction, batch).mean()
        return -log_likelihood + self.whole_loss(last, batch, stage)

    def whole_state(self, batch: of.Series) -> Tensor:
        """(B, width), the hidden state after the last seen value."""
        return self._unrolled(seen_rows(batch))[1]

    def figures(self, batch: Any) -> dict[str, Figure]:
        """As in `SeriesTask`; none of a classifier or regressor alone."""
        return super().figures(batch) if self.target_weight else {}
