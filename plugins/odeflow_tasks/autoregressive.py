"""Autoregressive: the base of the baselines that predict each value from the preceding ones."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

import odeflow as of
from odeflow_tasks.head import Head
from odeflow_tasks.likelihood import Likelihood
from odeflow_tasks.masking import Masking
from odeflow_tasks.series_task import SeriesTask

Level = Literal["last", "mean"]


class Autoregressive(SeriesTask, ABC):
    """A recurrent network that processes a series forward in time and predicts each value before reading it.

    The loss is the mean of −log p per series, in nats: at each target the log-density of a normal distribution around
    the prediction. An unseen target is predicted from the values seen before it; unlike in a `LatentODE`, later values
    are not used. The classifier reads the last hidden state.

    Args:
        width: Input length of decoder and classifier.
        dim: Length d of an observation.
        decoder: Maps features to predictions; `Perceptron()` by default.
        likelihood: The distribution of observations around their predictions; `Gaussian()` by default.
        classifier: Maps features to class logits; without it series are not classified.
        class_weight: Weight of the classification cross-entropy in the loss.
        num_classes: Number of classes of the series.
        masking: The values hidden in training.
        level: The level of each series and feature, which is subtracted from what the network sees and added to its
            predictions: "last", its last seen value, or "mean", their mean. Series with a trend need one, since their
            future lies outside of the values that trained (Kim et al. 2022, "Reversible Instance Normalization"). All
            seen values determine it, also those after a prediction's time.

    Raises:
        SettingError: An option is missing or out of range.
    """

    def __init__(
        self,
        width: int,
        dim: int | None,
        decoder: Head | None,
        likelihood: Likelihood | None,
        classifier: Head | None,
        class_weight: float,
        num_classes: int | None,
        masking: Masking,
        level: Level | None = None,
    ) -> None:
        super().__init__(width, dim, decoder, likelihood, classifier, class_weight, num_classes, masking)
        if level not in (None, "last", "mean"):
            raise of.SettingError(f"{type(self).__name__}: level must be 'last' or 'mean', or left out; got {level!r}")
        self.level: Level | None = level

    @abstractmethod
    def unroll(self, batch: of.Series) -> tuple[Tensor, Tensor]:
        """(B, T, d), the predictions, and (B, width), the hidden state at the end."""

    def predict(self, batch: of.Series) -> Tensor:
        return self._unrolled(batch)[0]

    def _unrolled(self, batch: of.Series) -> tuple[Tensor, Tensor]:
        """As `unroll`, around the level of each series."""
        if self.level is None:
            return self.unroll(batch)
        y, count = batch.y.where(batch.seen, 0.0), batch.seen.sum(1, keepdim=True)
        if self.level == "mean":
            level = y.sum(1, keepdim=True) / count.clamp(min=1)
        else:
            place = torch.arange(y.shape[1], device=y.device)[None, :, None]
            level = y.gather(1, place.where(batch.seen, 0).amax(1, keepdim=True))
        prediction, last = self.unroll(batch._replace(y=batch.y - level))
        return prediction + level, last

    def loss(self, batch: of.Series, stage: str) -> Tensor:
        """−log p of the targets plus the weighted classification loss; logs the errors in evaluation."""
        batch = self.checked(batch)
        if stage == "train":
            batch = self.masking(batch)
        prediction, last = self._unrolled(batch)
        if stage != "train":
            self.note_errors(prediction, batch, stage)
        return -self.log_likelihood(prediction, batch).mean() + self.class_loss(last, batch, stage)
