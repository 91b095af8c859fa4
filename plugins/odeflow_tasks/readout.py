"""Readout: what a model of series reads off its states."""

from dataclasses import dataclass

import odeflow as of
from odeflow_tasks.head import Head
from odeflow_tasks.likelihood import Likelihood


@dataclass(frozen=True)
class Readout(of.OptionGroup):
    """Predictions of observations from the states of a model, and classes of series.

    Attributes:
        decoder: Maps a state to the prediction of an observation; `Perceptron()` by default.
        likelihood: The distribution of observations around their predictions; `Gaussian()` by default.
        classifier: Maps z(t₀) of a `LatentODE`, otherwise the last hidden state, to the logits of the classes; without
            it series are not classified.
        class_weight: Weight of the classification cross-entropy in the loss.
        target_weight: Weight of the log-likelihood of the targets in the loss. 0: a classifier alone, which reads the
            seen values and predicts the probabilities of the classes instead of values; of models that read a series
            forward in time.

    Raises:
        SettingError: A weight is negative, or nothing is left to learn.
    """

    decoder: Head | None = None
    likelihood: Likelihood | None = None
    classifier: Head | None = None
    class_weight: float = 1.0
    target_weight: float = 1.0

    def __post_init__(self) -> None:
        of.check_least(self, 0, class_weight=self.class_weight, target_weight=self.target_weight)
        if self.target_weight:
            return
        if self.classifier is None or not self.class_weight:
            raise of.SettingError(
                "Readout: target_weight=0 leaves nothing to learn; give a classifier, such as Perceptron(), and a "
                f"positive class_weight; got {self.classifier} and {self.class_weight}"
            )
        if self.decoder is not None or self.likelihood is not None:
            raise of.SettingError(
                "Readout: with target_weight=0 no values are predicted; leave decoder and likelihood out"
            )
