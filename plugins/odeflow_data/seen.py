"""Seen: which values of time series a model sees, and which it predicts."""

from dataclasses import dataclass
from typing import Literal

import torch

import odeflow as of


@dataclass(frozen=True)
class Seen(of.OptionGroup):
    """The seen values and the targets of time series.

    Source: Rubanova, Chen & Duvenaud (2019), "Latent ODEs for Irregularly-Sampled Time Series", section 4.

    Attributes:
        mode: "interpolation": a random fraction of the observation times is seen, and all values are predicted;
            "extrapolation": the first part of the time span is seen, and the rest is predicted.
        share: The fraction seen: of the times for interpolation, of the time span for extrapolation.
        redraw: Whether training draws the seen times of interpolation anew for each batch, so that in the end all of
            them are read. If False, they are drawn once, and a classifier never reads the others.

    Raises:
        SettingError: An option is out of range.
    """

    mode: Literal["interpolation", "extrapolation"] = "interpolation"
    share: float = 0.5
    redraw: bool = True

    def __post_init__(self) -> None:
        of.check_range(self, "(0, 1)" if self.mode == "extrapolation" else "(0, 1]", share=self.share)

    @property
    def redrawn(self) -> bool:
        """Whether each training batch draws what is seen."""
        return self.redraw and self.mode == "interpolation"

    def __call__(self, whole: of.Series, generator: torch.Generator, span: float | None = None) -> of.Series:
        """Series with seen values and targets.

        Args:
            whole: The series; what was observed is seen.
            generator: Generator of the seen times, for interpolation.
            span: The time span from time 0, for extrapolation; by default from each series' first time to its last.
        """
        if self.mode == "interpolation":
            return thinned(whole, self.share, generator)
        first, last = (0.0, span) if span is not None else (whole.t[:, :1], whole.t[:, -1:])
        early = (whole.t < first + self.share * (last - first))[:, :, None]
        return whole._replace(seen=whole.seen & early, target=whole.seen & ~early)


def thinned(whole: of.Series, share: float, generator: torch.Generator | None = None) -> of.Series:
    """A random fraction of the seen times of each series remains seen, at least one; the targets are unchanged.

    Args:
        whole: The series.
        share: The fraction.
        generator: Generator of the times; torch's by default.
    """
    if share == 1:
        return whole
    times = whole.seen.any(dim=2)
    chance = torch.rand(times.shape, generator=generator).masked_fill(~times, 2.0)
    rank = chance.argsort(dim=1).argsort(dim=1)
    count = (share * times.sum(dim=1, keepdim=True)).round().clamp(min=1)
    return whole._replace(seen=whole.seen & (rank < count)[:, :, None])
