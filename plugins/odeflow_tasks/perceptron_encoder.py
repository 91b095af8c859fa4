"""PerceptronEncoder: encodes a series by a perceptron of the few observations nearest to t₀."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics.perceptron import perceptron
from odeflow_tasks.encoder import Encoder, Observations


class PerceptronEncoder(Encoder):
    """A perceptron of the observations nearest to t₀: their times, values, which are seen, and covariates.

    For forecasts from a few observations. Noise on the values, drawn anew for each batch in training, keeps it from
    knowing each series by its digits where there are few.

    Args:
        observations: Number of observations that are read; series with fewer are filled up with zeros.
        width: Length of the vector.
        hidden: Widths of the hidden layers.
        unit: What the values are divided by, about their standard deviation.
        noise: Standard deviation of the noise, in the values' own unit.

    Raises:
        SettingError: An option is out of range.
    """

    def __init__(
        self, observations: int = 3, width: int = 50, hidden: Sequence[int] = (64,), unit: float = 1.0, noise: float = 0
    ) -> None:
        super().__init__()
        of.check_least(self, 1, observations=observations, width=width, hidden=hidden)
        of.check_range(self, "(0, inf)", unit=unit)
        of.check_least(self, 0, noise=noise)
        self.observations, self.width, self.hidden = observations, width, tuple(hidden)
        self.unit, self.noise = unit, noise

    def build(self, dim: int, covariates: int = 0) -> None:
        self.dim = dim
        self.layers = perceptron(self.observations * (2 * dim + covariates + 1), self.hidden, self.width, nn.SiLU)

    def forward(self, batch: of.Series, t0: float) -> Tensor:
        """(B, width), the encoded series."""
        seen = Observations.towards(batch, t0)
        values, others = seen.inputs.split([self.dim, seen.inputs.shape[-1] - self.dim], dim=-1)
        if self.training and self.noise:
            values = values + self.noise * others[..., : self.dim] * torch.randn_like(values)
        rows = torch.cat([seen.t[..., None] - t0, values / self.unit, others], dim=-1)
        place = seen.lengths[:, None] - 1 - torch.arange(self.observations, device=rows.device)  # the nearest first
        chosen = rows.gather(1, place.clamp(min=0)[..., None].expand(-1, -1, rows.shape[-1]))
        return self.layers(chosen.masked_fill((place < 0)[..., None], 0.0).flatten(1))
