"""Masking: hides seen values of a series in training."""

from dataclasses import dataclass

import torch

import odeflow as of

SHORTEST = 0.25
"""Share of the time span with which growing series begin."""


@dataclass(frozen=True)
class Masking(of.OptionGroup):
    """What is hidden in training: seen values, drawn anew for each batch, and at first the end of each series.

    Attributes:
        hide: Fraction of the times at which all values are hidden.
        window: Minimal fraction of a series' time span that is shown. Up to half of the rest is hidden at the start and
            at the end each; times are counted from the start of the window. Paths are thus learned before and after the
            seen values, as extrapolation requires. For autonomous fields. 1: all is shown.
        grow: Number of epochs in which series grow from a quarter of their time span to the whole: values after it are
            neither shown nor targets. Oscillations of many periods are learned sooner so. 0: they are whole at once.

    Raises:
        SettingError: An option is out of range.
    """

    hide: float = 0.0
    window: float = 1.0
    grow: int = 0

    def __post_init__(self) -> None:
        of.check_range(self, "[0, 1)", hide=self.hide)
        of.check_range(self, "(0, 1]", window=self.window)
        of.check_least(self, 0, grow=self.grow)

    def __call__(self, batch: of.Series, epoch: float) -> of.Series:
        """The masked batch.

        Args:
            batch: The series.
            epoch: Number of epochs so far.
        """
        return self._windowed(self._hidden(self._begun(batch, epoch)))

    def _begun(self, batch: of.Series, epoch: float) -> of.Series:
        if epoch >= self.grow:
            return batch
        first, last = batch.t[:, :1], batch.t[:, -1:]
        share = SHORTEST + (1 - SHORTEST) * epoch / self.grow
        early = (batch.t <= first + share * (last - first))[..., None]
        return batch._replace(seen=batch.seen & early, target=batch.target & early)

    def _hidden(self, batch: of.Series) -> of.Series:
        if not self.hide:
            return batch
        return batch._replace(seen=batch.seen & (torch.rand_like(batch.t)[..., None] >= self.hide))

    def _windowed(self, batch: of.Series) -> of.Series:
        if self.window == 1:
            return batch
        first, last = batch.t[:, :1], batch.t[:, -1:]
        margins = 0.5 * (1 - self.window) * (last - first) * torch.rand_like(batch.t[:, :2])
        lead, trail = margins.split(1, dim=1)
        inside = (batch.t >= first + lead) & (batch.t <= last - trail)
        return batch._replace(t=batch.t - lead, seen=batch.seen & inside[..., None])
