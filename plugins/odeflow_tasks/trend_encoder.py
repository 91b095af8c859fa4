"""TrendEncoder: encodes a series by level and slope of the few observations nearest to t₀."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.perceptron import perceptron
from odeflow_tasks.encoder import Encoder, Observations


class TrendEncoder(Encoder):
    """A perceptron of the line of least squares through the observations nearest to t₀: level and slope of each value.

    For forecasts from a few observations. A level is the mean, at the mean of the times; where nothing is seen it is 0,
    where a slope is not known, that is. Beside them are these times, what is not known, and the covariates.

    Noise, drawn anew for each batch in training, keeps the encoder from knowing each series by its digits where there
    are few. That of a level shifts all observations of a series together, as series of one kind differ from each other;
    the slope, which such shifts leave as it is, has noise of its own.

    Args:
        observations: Number of observations that are read; of shorter series, all.
        width: Length of the vector.
        hidden: Widths of the hidden layers.
        unit: What the levels are divided by, about their standard deviation.
        slope_unit: What the slopes are divided by, about their standard deviation, per unit of the model's time.
        noise: Standard deviation of the noise of levels, in the values' own unit.
        slope_noise: Standard deviation of the noise of slopes, per unit of the model's time.

    Raises:
        SettingError: An option is out of range.
    """

    def __init__(
        self,
        observations: int = 3,
        width: int = 50,
        hidden: Sequence[int] = (64,),
        unit: float = 1.0,
        slope_unit: float = 1.0,
        noise: float = 0.0,
        slope_noise: float = 0.0,
    ) -> None:
        super().__init__()
        of.check_least(self, 1, observations=observations, width=width, hidden=hidden)
        of.check_range(self, "(0, inf)", unit=unit, slope_unit=slope_unit)
        of.check_least(self, 0, noise=noise, slope_noise=slope_noise)
        self.observations, self.width, self.hidden = observations, width, tuple(hidden)
        self.unit, self.slope_unit, self.noise, self.slope_noise = unit, slope_unit, noise, slope_noise

    def build(self, dim: int, covariates: int = 0) -> None:
        self.sizes = dim, dim, covariates
        self.layers = perceptron(5 * dim + covariates, self.hidden, self.width, nn.SiLU)

    def forward(self, batch: of.Series, t0: float) -> Tensor:
        """(B, width), the encoded series."""
        found = Observations.towards(batch, t0)
        place = found.lengths[:, None] - 1 - torch.arange(self.observations, device=found.t.device)  # the nearest first
        there, place = place >= 0, place.clamp(min=0)
        rows = found.inputs.gather(1, place[..., None].expand(-1, -1, found.inputs.shape[-1]))
        y, seen, covariates = rows.split(self.sizes, dim=-1)
        seen = seen * there[..., None]
        t = (found.t.gather(1, place) - t0)[..., None]
        count = seen.sum(1)
        time, level = ((seen * each).sum(1) / count.clamp(min=1) for each in (t, y))
        offset = seen * (t - time[:, None])
        spread = offset.square().sum(1)
        known, sloped = count > 0, spread > 0
        slope = (offset * y).sum(1) / spread.where(sloped, 1.0)
        if self.training:
            level = level + self.noise * known * torch.randn_like(level)
            slope = slope + self.slope_noise * sloped * torch.randn_like(slope)
        unknown = torch.cat([~known, ~sloped], dim=1).to(y)
        nearest = covariates[:, 0] * there[:, :1]
        return self.layers(torch.cat([level / self.unit, slope / self.slope_unit, time, unknown, nearest], dim=1))
