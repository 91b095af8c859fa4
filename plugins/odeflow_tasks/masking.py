"""Masking: what training hides of a series, so that a model learns to do without."""

from dataclasses import dataclass

import torch

import odeflow as of


@dataclass(frozen=True)
class Masking(of.OptionGroup):
    """What training hides of what is seen, drawn anew for each batch; targets stay.

    Attributes:
        hide: Share of the times at which nothing is shown.
        window: Share of a series' time that is shown at least. The rest is hidden at its beginning and its end, up to
            half of it at each; times are counted from where the window begins, as if the series did. So paths are
            learned before and after what is seen, which extrapolation builds on. For autonomous fields. 1: all.

    Raises:
        SettingError: An option is out of range.
    """

    hide: float = 0.0
    window: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.hide < 1:
            raise of.SettingError(f"hide must lie in [0, 1); got {self.hide}")
        if not 0 < self.window <= 1:
            raise of.SettingError(f"window must lie in (0, 1]; got {self.window}")

    def __call__(self, batch: of.Series) -> of.Series:
        """The batch as training shows it."""
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
