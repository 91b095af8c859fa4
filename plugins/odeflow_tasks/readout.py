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

    Raises:
        SettingError: The weight is negative.
    """

    decoder: Head | None = None
    likelihood: Likelihood | None = None
    classifier: Head | None = None
    class_weight: float = 1.0

    def __post_init__(self) -> None:
        of.check_least(self, 0, class_weight=self.class_weight)
