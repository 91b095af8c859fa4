"""PeriodicSeries: sine waves of random frequency, observed at random times."""

import math

import torch

import odeflow as of
from odeflow_data.seen import Seen
from odeflow_data.series import SeriesData
from odeflow_data.shares import Shares


class PeriodicSeries(SeriesData):
    """1000 waves y = s + a sin(2π f t) on [0, 5], each observed at time 0 and at 99 random times.

    The frequency f is uniform in [0.4, 0.8], the offset s ~ N(1, 0.1²), and the amplitude a is 1 by default. In the
    authors' code all series share their times, and the noise is uniform in [0, 0.01]; here it is Gaussian.

    Source: Rubanova, Chen & Duvenaud (2019), "Latent ODEs for Irregularly-Sampled Time Series", section 4.1;
        `generate_timeseries.py` of https://github.com/YuliaRubanova/latent_ode.

    Args:
        series: Number of series.
        points: Number of observations of each series.
        span: End of the time span.
        frequency: Smallest and largest frequency.
        amplitude: Smallest and largest amplitude.
        noise: Standard deviation of the noise.
        seen: The seen values and the targets.
        batch_size: Number of series in a batch; the last one may be smaller.
        split: The fractions of the series for validation and testing.

    Raises:
        SettingError: An option is out of range.
    """

    def __init__(
        self,
        series: int = 1000,
        points: int = 100,
        span: float = 5.0,
        frequency: tuple[float, float] = (0.4, 0.8),
        amplitude: tuple[float, float] = (1.0, 1.0),
        noise: float = 0.01,
        seen: Seen = Seen(),
        batch_size: int = 50,
        split: Shares = Shares(),
    ) -> None:
        super().__init__(batch_size, seen, split.seed)
        of.check_least(self, 1, series=series)
        of.check_least(self, 2, points=points)
        of.check_least(self, 0, frequency=frequency, amplitude=amplitude, noise=noise)
        of.check_range(self, "(0, inf)", span=span)
        self.dim = 1
        self.series, self.points, self.span, self.noise = series, points, span, noise
        self.frequency, self.amplitude = frequency, amplitude
        self.split = split

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def uniform(low: float, high: float, count: int = 1) -> torch.Tensor:
            return low + (high - low) * torch.rand(self.series, count, generator=generator)

        t = uniform(0, self.span, self.points - 1).sort(dim=1).values
        t = torch.cat([torch.zeros(self.series, 1), t], dim=1)
        start = 1 + 0.1 * torch.randn(self.series, 1, generator=generator)
        wave = start + uniform(*self.amplitude) * torch.sin(2 * math.pi * uniform(*self.frequency) * t)
        y = (wave + self.noise * torch.randn(t.shape, generator=generator))[:, :, None]
        self.divide(of.Series.observed(t, y), self.split, self.span)
