"""Masking: hides seen values of a series in training."""

from dataclasses import dataclass

import torch

import odeflow as of


@dataclass(frozen=True)
class Masking(of.OptionGroup):
    """Seen values to hide in training, drawn anew for each batch. Targets are unaffected.

    Attributes:
        hide: Fraction of the times at which all values are hidden.
        window: Minimal fraction of a series' time span that is shown. Up to half of the rest is hidden at the start and
            at the end each; times are counted from the start of the window. Paths are thus learned before and after the
            seen values, as extrapolation requires. For autonomous fields. 1: all is shown.

    Raises:
        SettingError: An option is out of range.
    """

    hide: float = 0.0
    window: float = 1.0

    def __post_init__(self) -> None:
        of.check_range(self, "[0, 1)", hide=self.hide)
        of.check_range(self, "(0, 1]", window=self.window)

    def __call__(self, batch: of.Series) -> of.Series:
        """The masked batch."""
        return self._windowed(self._hidden(batch))

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
