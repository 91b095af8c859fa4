"""Autoregressive: what the baselines share, which predict each value from what came before it."""

from abc import ABC, abstractmethod

from torch import Tensor

import odeflow as of
from odeflow_tasks.series_task import SeriesTask


class Autoregressive(SeriesTask, ABC):
    """A recurrent net that goes through a series forwards in time, and predicts each value before it sees it.

    The loss is −log p in nats a series, averaged: at each target the log-density of a normal distribution around the
    prediction. A target that is not seen is predicted from what was seen before it; what is seen later has no part in
    it, unlike in a `LatentODE`. The classifier reads the last hidden state.
    """

    @abstractmethod
    def unroll(self, batch: of.Series) -> tuple[Tensor, Tensor]:
        """(B, T, d), the predictions, and (B, width), the hidden state at the end."""

    def predict(self, batch: of.Series) -> Tensor:
        return self.unroll(batch)[0]

    def loss(self, batch: of.Series, stage: str) -> Tensor:
        """−log p of the targets and the weighted term of the class; logs the errors in evaluation."""
        batch = self.checked(batch)
        if stage == "train":
            batch = self.masking(batch)
        prediction, last = self.unroll(batch)
        if stage != "train":
            self.note_errors(prediction, batch, stage)
        return -self.log_likelihood(prediction, batch).mean() + self.class_loss(last, batch, stage)
