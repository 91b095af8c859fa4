"""PeriodicSeries: sine waves of random frequency, observed at random times."""

import math

import torch

import odeflow as of
from odeflow_data.series import Mode, SeriesData


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
        mode: The prediction task: all values from a fraction of the times, or the end from the beginning.
        observed: The fraction seen: of the times for interpolation, of the time span for extrapolation.
        batch_size: Number of series in a batch; the last one may be smaller.
        val: Fraction of the series for validation.
        test: Fraction of the series for testing.
        seed: Seed of all random numbers.

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
        mode: Mode = "interpolation",
        observed: float = 0.5,
        batch_size: int = 50,
        val: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, mode, observed, seed)
        of.check_least(self, 1, series=series)
        of.check_least(self, 2, points=points)
        of.check_least(self, 0, frequency=frequency, amplitude=amplitude, noise=noise)
        of.check_range(self, "(0, inf)", span=span)
        self.dim = 1
        self.series, self.points, self.span, self.noise = series, points, span, noise
        self.frequency, self.amplitude = frequency, amplitude
        self.val_share, self.test_share = val, test

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def uniform(low: float, high: float, count: int = 1) -> torch.Tensor:
            return low + (high - low) * torch.rand(self.series, count, generator=generator)

        t = uniform(0, self.span, self.points - 1).sort(dim=1).values
        t = torch.cat([torch.zeros(self.series, 1), t], dim=1)
        start = 1 + 0.1 * torch.randn(self.series, 1, generator=generator)
        wave = start + uniform(*self.amplitude) * torch.sin(2 * math.pi * uniform(*self.frequency) * t)
        y = (wave + self.noise * torch.randn(t.shape, generator=generator))[:, :, None]
        self.divide(of.Series.observed(t, y), self.val_share, self.test_share, self.span)
