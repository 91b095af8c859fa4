"""Control: how series become the paths that drive an equation."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import odeflow as of
from odeflow_cde.log_signature import LogSignature, log_signature_channels
from odeflow_tasks.interpolation import Hermite, Interpolation, Linear, Rectilinear


@dataclass(frozen=True)
class Drive:
    """The paths of a batch.

    Attributes:
        path: X, (B, c), of a parameter s that starts at 0.
        start: (B, 1 + d or 1 + 2d), the first observations: time, values, and counts if there are any.
        rows: (R,), the parameter at which each row of the batch is read.
        end: (1,), the parameter at the end of the path.
    """

    path: of.Path
    start: Tensor
    rows: Tensor
    end: Tensor


@dataclass(frozen=True)
class Control(of.OptionGroup):
    """The path through the observations of a series: its channels are time and the values.

    Its parameter, the time of the solve, is the number of the observation, so that a batch of series with times of
    their own has common knots 0, 1, 2, …; time itself is a channel. After the end of a series its path rests, and with
    it the state. Missing values of an observation are interpolated in time first.

    Attributes:
        interpolation: Between observations; `Hermite()` by default. With `Rectilinear()` time proceeds first, while the
            values are held, and then the values change: the path of two steps for each observation, 0, 2, 4, …, never
            depends on a later one, also where values are missing, which are 0 before the first.
        time_scale: Factor of the time. With a bounded matrix a state moves no farther than its path is long, so where
            values hardly change it moves with the time alone; larger factors let it integrate them.
        counts: Whether the number of observations of each value so far is a channel, too: what was observed may tell
            about a series.
        window: Number of observations in each window of a `LogSignature`; 0 for the path itself.
        depth: Depth of the log-signatures.

    Raises:
        SettingError: An option is out of range.
    """

    interpolation: Interpolation | None = None
    time_scale: float = 1.0
    counts: bool = False
    window: int = 0
    depth: Literal[1, 2] = 2

    def __post_init__(self) -> None:
        of.check_range(self, "(0, inf)", time_scale=self.time_scale)
        of.check_least(self, 0, window=self.window)

    @property
    def causal(self) -> bool:
        """Whether the state at a row does not depend on later rows, also where values are missing."""
        return isinstance(self.interpolation, Rectilinear) and not self.window

    def channels(self, dim: int) -> int:
        """Number of channels of the path of values of length `dim`."""
        return log_signature_channels(self.observed(dim), self.depth) if self.window else self.observed(dim)

    def observed(self, dim: int) -> int:
        """Length of an observation in the path: time, values, and counts."""
        return 1 + dim * (2 if self.counts else 1)

    def __call__(self, batch: of.Series) -> Drive:
        """The paths of a batch.

        Args:
            batch: The series, in which every row is an observation or padding at the end.
        """
        interpolation = self.interpolation or Hermite()
        x = torch.cat((self.time_scale * batch.t[..., None], self._values(batch, interpolation)), 2)
        if self.counts:
            x = torch.cat((x, batch.seen.to(x).cumsum(1)), 2)
        start, step, rows = x[:, 0], 1, x.shape[1]
        if isinstance(interpolation, Rectilinear):
            x, step = _stairs(x), 2
        if self.window:  # padded to whole windows, so that fixed steps end at their edges
            x = torch.cat((x, x[:, -1:].expand(-1, (1 - len(x[0])) % (step * self.window), -1)), 1)
        s = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)
        if not isinstance(interpolation, Linear | Rectilinear):  # a curve would go on into the padding
            known = (batch.seen | batch.target).any(2, keepdim=True)
            known = torch.cat((known, known.new_zeros(len(x), len(s) - rows, 1)), 1)
            x = x.where(known | (s == 0)[:, None], torch.nan)
        path = of.paths.Linear(s, x) if step == 2 else interpolation.path(s[None], x)
        if self.window and len(s) > 1:
            path = LogSignature(path, range(0, len(s), step * self.window), self.depth)
        return Drive(path, start, s[: step * rows : step], s[-1:])

    def _values(self, batch: of.Series, interpolation: Interpolation) -> Tensor:
        """(B, R, d), the values, interpolated where missing, and at the end the last ones."""
        y, rows = batch.y, batch.seen.any(2, keepdim=True)
        missing = ~batch.seen & (rows | batch.target.any(2, keepdim=True))
        if isinstance(interpolation, Rectilinear) or not bool(missing.any()):
            return _held(y, batch.seen)
        path = interpolation.path(batch.t, y.masked_fill(~batch.seen, torch.nan))
        return torch.stack([path(t) for t in batch.t.unbind(1)], 1).where(missing, _held(y, batch.seen))


def _held(y: Tensor, seen: Tensor) -> Tensor:
    """(B, R, d), each value or the last seen one before; 0 before the first."""
    place = torch.arange(y.shape[1], device=y.device)[None, :, None]
    last = place.where(seen, -1).cummax(1).values
    return y.gather(1, last.clamp(min=0)).where(last >= 0, 0.0)


def _stairs(x: Tensor) -> Tensor:
    """(B, R, 1 + …) ↦ (B, 2R − 1, 1 + …): between each two rows one of the next time and the held values."""
    corner = torch.cat((x[:, 1:, :1], x[:, :-1, 1:]), 2)
    joined = torch.stack((corner, x[:, 1:]), 2).flatten(1, 2)
    return torch.cat((x[:, :1], joined), 1)
