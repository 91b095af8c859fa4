"""PathBound: the options of the evidence lower bound of a latent SDE."""

from dataclasses import dataclass

import odeflow as of


@dataclass(frozen=True)
class PathBound(of.OptionGroup):
    """Options of the evidence lower bound that a `LatentSDE` maximises.

    Attributes:
        samples: Number of posterior paths of each series in training.
        evaluated: Number of posterior paths in validation, test and prediction.
        weight: The factor of the divergence; 1 for the bound itself.
        anneal: Number of training steps in which this factor rises from 0.

    Raises:
        SettingError: An option is out of range.
    """

    samples: int = 1
    evaluated: int = 20
    weight: float = 1.0
    anneal: int = 0

    def __post_init__(self) -> None:
        of.check_least(self, 1, samples=self.samples)
        of.check_least(self, 2, evaluated=self.evaluated)
        of.check_least(self, 0, weight=self.weight, anneal=self.anneal)

    def factor(self, step: int) -> float:
        """The factor of the divergence in a training step."""
        return self.weight * (min(1.0, step / self.anneal) if self.anneal else 1.0)
