"""LynxHare: the pelts that the Hudson Bay Company bought, from 1900 to 1920."""

import torch

import odeflow as of
from odeflow_data.forecast import Forecast

FIRST = 1900
HARE = (
    *(30.0, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22.0, 25.4),
    *(27.1, 40.3, 57.0, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7),
)
"""Snowshoe hares, in thousands of pelts a year."""
LYNX = (
    *(4.0, 6.1, 9.8, 35.2, 59.4, 41.7, 19.0, 13.0, 8.3, 9.1),
    *(7.4, 8.0, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6),
)
"""Canadian lynxes, likewise."""


class LynxHare(Forecast):
    """Hares and lynxes, prey and predator, over 21 years: the first years train, the others are forecast.

    States are (hare, lynx), times are years after 1900. The Lotka–Volterra equations keep their form if each species
    is counted in units of its own, for which `scaled` takes its mean over the years that train.

    Source: Howard (2009), "Modeling Basics", after the records in Elton & Nicholson (1942), "The ten-year cycle in
        numbers of the lynx in Canada", Journal of Animal Ecology 11, 215–244.

    Args:
        known: Fraction of the years before the test.
        val: Fraction of the years, the last known ones, for validation.
        batch_time: Number of years in a piece.
        batch_size: Number of pieces in a batch.
        steps: Number of batches in an epoch.
        scaled: Whether each species is divided by its mean; otherwise in thousands.

    Raises:
        SettingError: An option is out of range.
    """

    standardises = True

    def __init__(
        self,
        known: float = 0.7,
        val: float = 0.15,
        batch_time: int = 6,
        batch_size: int = 10,
        steps: int = 50,
        scaled: bool = True,
    ) -> None:
        super().__init__(known, val, batch_time, batch_size, steps)
        self.dim = 2
        self.scaled = scaled

    def setup(self, stage: str) -> None:
        pelts = torch.tensor([HARE, LYNX]).T
        self.t = torch.arange(float(len(pelts)))
        if self.units is None:
            mean = pelts[: self.trained].mean(dim=0).tolist() if self.scaled else (1.0,)
            self.units = of.Units(scale=tuple(mean))
        self.y = self.units.standardised(pelts)
