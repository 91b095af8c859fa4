"""Hopper: a one-legged robot that tumbles, simulated."""

from pathlib import Path

import numpy as np
import torch

import odeflow as of
from odeflow_data.archive import load, require_finite
from odeflow_data.seen import Seen
from odeflow_data.series import Divisor, SeriesData, ranges, scaled
from odeflow_data.shares import Shares

FILE = "hopper_first1500.npz"
ADVICE = (
    f"Wanted is {FILE} with an array data of shape (series, times, 14), the positions and velocities of the Hopper "
    "of the DeepMind Control Suite, simulated as in `mujoco_physics.py` of "
    "https://github.com/YuliaRubanova/latent_ode. Name its folder by --data.root"
)


class Hopper(SeriesData):
    """Seven positions and seven velocities of MuJoCo's hopper, at 200 times 0.005 s apart, from random states.

    The unit of time is the duration of a series. For interpolation each series is cut to `points` consecutive times
    with a random start, counted from 0; for extrapolation all 200 are used. Each column is scaled to [0, 1] by its
    smallest value and its range over all series. The authors' code divides by the largest value instead
    (`divisor: largest`), and reports errors in these units. It extrapolates from the first third (`seen.share: 0.33`);
    the paper says half.

    Source: Rubanova, Chen & Duvenaud (2019), "Latent ODEs for Irregularly-Sampled Time Series", section 4.2;
        `lib/parse_datasets.py` and `lib/utils.py` of https://github.com/YuliaRubanova/latent_ode.

    Args:
        root: Folder of `hopper_first1500.npz`.
        points: Number of consecutive times to interpolate.
        divisor: The divisor of the values.
        seen: The seen values and the targets.
        batch_size: Number of series in a batch; the last one may be smaller.
        split: The fractions of the series for validation and testing.

    Raises:
        SettingError: An option is out of range.
    """

    standardises = True

    def __init__(
        self,
        root: str = "~/.cache/odeflow/hopper",
        points: int = 100,
        divisor: Divisor = "range",
        seen: Seen = Seen(),
        batch_size: int = 50,
        split: Shares = Shares(),
    ) -> None:
        super().__init__(batch_size, seen, split.seed)
        of.check_least(self, 1, points=points)
        self.dim = 14
        self.path, self.points = Path(root).expanduser() / FILE, points
        self.divisor: Divisor = divisor
        self.split = split

    def setup(self, stage: str) -> None:
        data = load(self.path, ["data"], [], ADVICE)["data"]
        if data.ndim != 3 or data.shape[2] != self.dim or 0 in data.shape:
            raise of.DataError(f"{self.path} holds data of shape {data.shape}. {ADVICE}")
        require_finite(self.path, "data", data, ADVICE)
        states = torch.from_numpy(data.astype(np.float32))
        count, times = states.shape[:2]
        t = torch.arange(times).expand(count, -1) / times
        whole = of.Series.observed(t, states)
        self.units = self.units or ranges(whole, self.divisor)
        whole = scaled(whole, self.units)
        if self.seen.mode == "interpolation":
            whole = self._cut(whole)
        self.divide(whole, self.split, span=1.0)

    def _cut(self, whole: of.Series) -> of.Series:
        """A random stretch of each series, with times from 0."""
        count, times = whole.t.shape
        if self.points > times:
            raise of.SettingError(f"Hopper: there are {times} times; got points = {self.points}")
        generator = torch.Generator().manual_seed(self.seed)
        start = torch.randint(times - self.points + 1, (count, 1), generator=generator)
        place = start + torch.arange(self.points)
        y = whole.y.gather(1, place[:, :, None].expand(-1, -1, self.dim))
        return of.Series.observed(whole.t[:, : self.points], y)
