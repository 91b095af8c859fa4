"""Readout: what a model of series reads off its states."""

from dataclasses import dataclass

import odeflow as of
from odeflow_tasks.head import Head
from odeflow_tasks.likelihood import Likelihood


@dataclass(frozen=True)
class Readout(of.OptionGroup):
    """Predictions of observations from the states of a model, and of classes and outcomes of whole series.

    Attributes:
        decoder: Maps a state to the prediction of an observation; `Perceptron()` by default.
        likelihood: The distribution of observations around their predictions; `Gaussian()` by default.
        classifier: Maps z(t₀) of a `LatentODE`, otherwise the last hidden state, to the logits of the classes; without
            it series are not classified.
        regressor: Maps the same state to the outcomes, numbers that each series has; without it none are predicted.
        class_weight: Weight of the classification cross-entropy in the loss.
        outcome_weight: Weight of the mean square error of the outcomes in the loss.
        target_weight: Weight of the log-likelihood of the targets in the loss. 0: a classifier or regressor alone,
            which reads the seen values and predicts the probabilities of the classes, or the outcomes, instead of
            values; of models that read a series forward in time.

    Raises:
        SettingError: A weight is negative, or nothing is left to learn.
    """

    decoder: Head | None = None
    likelihood: Likelihood | None = None
    classifier: Head | None = None
    regressor: Head | None = None
    class_weight: float = 1.0
    outcome_weight: float = 1.0
    target_weight: float = 1.0

    def __post_init__(self) -> None:
        weights = {"class_weight": self.class_weight, "outcome_weight": self.outcome_weight}
        of.check_least(self, 0, **weights, target_weight=self.target_weight)
        if self.target_weight:
            return
        pairs = zip((self.classifier, self.regressor), weights.values(), strict=True)
        if all(head is None or not weight for head, weight in pairs):
            raise of.SettingError(
                "Readout: target_weight=0 leaves nothing to learn; give a classifier or a regressor, such as "
                "Perceptron(), and a positive class_weight or outcome_weight; got "
                f"{self.classifier} and {self.regressor}, {self.class_weight:g} and {self.outcome_weight:g}"
            )
        if self.decoder is not None or self.likelihood is not None:
            raise of.SettingError(
                "Readout: with target_weight=0 no values are predicted; leave decoder and likelihood out"
            )
