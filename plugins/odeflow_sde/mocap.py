"""Mocap: walking people, recorded as angles of their joints."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import odeflow as of
from odeflow_data.archive import load, require_finite
from odeflow_data.rows import repeated
from odeflow_data.seen import Seen
from odeflow_data.series import SeriesData

FILE = "mocap35.npz"
PARTS = ("train", "val", "test")
ADVICE = (
    f"Wanted is {FILE} with arrays train, val and test of shape (series, times, 50): the walks of subject 35 of CMU's "
    "motion capture database, Xtr, Xval and Xtest of `data/mocap/mocap35.mat` of "
    "https://github.com/uncbiag/neuro_shooting. Name its folder by --data.root"
)
GAP = 0.02
"""The time between two frames."""


class Mocap(SeriesData):
    """Fifty coordinates of 23 walks of one person, 300 frames each; from the first frames the others are forecast.

    16 series train, 3 validate and 4 test, as published. The first `frames` are seen; in training all frames are
    targets, in validation and test those that are not seen. A walk may begin at any phase of the step and be faster or
    slower than those that train, so that training on a `window` of it, which begins anywhere, at a random `speed`, has
    more to learn from. Values and errors are in the file's units; frames are 0.02 apart.

    Source: Yıldız et al. (2019), "ODE²VAE", section 4.1; CMU Graphics Lab, http://mocap.cs.cmu.edu. The data are free
        for all uses, and may not be resold as such.

    Args:
        root: Folder of `mocap35.npz`.
        frames: Number of seen frames.
        steps: Number of batches in an epoch.
        window: Number of frames of a training series, which begins at a random frame of a random walk; by default whole
            walks train.
        speed: Standard deviation of the logarithm of the speed at which a window is passed, 1 as recorded, as far as it
            then lies in its walk; between frames it is interpolated linearly.
        batch_size: Number of windows in a batch; a batch of whole walks has all of them.

    Raises:
        SettingError: An option is out of range.
    """

    def __init__(
        self,
        root: str = "~/.cache/odeflow/mocap",
        frames: int = 3,
        steps: int = 10,
        window: int | None = None,
        speed: float = 0.0,
        batch_size: int = 64,
    ) -> None:
        super().__init__(batch_size, Seen(share=1.0), 0)
        of.check_least(self, 1, frames=frames, steps=steps)
        of.check_least(self, 0, speed=speed)
        if window is not None:
            of.check_least(self, frames + 1, window=window)
        elif speed:
            raise of.SettingError(f"Mocap: speed={speed:g} is that of windows; give window, such as 200, too")
        self.dim, self.path, self.frames, self.steps = 50, Path(root).expanduser() / FILE, frames, steps
        self.window, self.speed = window, speed

    def setup(self, stage: str) -> None:
        arrays = load(self.path, list(PARTS), [], ADVICE)
        self.train, self.val, self.test = (self._part(name, arrays[name]) for name in PARTS)

    def _part(self, name: str, array: NDArray[np.float32]) -> of.Series:
        if array.ndim != 3 or array.shape[2] != self.dim or array.shape[1] <= self.frames:
            raise of.DataError(f"{self.path}: {name} has shape {array.shape}. {ADVICE}")
        require_finite(self.path, name, array, ADVICE)
        y = torch.from_numpy(array.astype(np.float32))
        whole = of.Series.observed(GAP * torch.arange(y.shape[1]), y)
        early = (torch.arange(y.shape[1]) < self.frames)[:, None]
        target = whole.target if name == "train" else whole.target & ~early
        return whole._replace(seen=whole.seen & early, target=target)

    def train_dataloader(self) -> DataLoader[of.Series]:
        if self.window is None:
            return repeated(self.train, self.steps)
        length = self.train.y.shape[1]
        if self.window > length:
            raise of.DataError(f"{self.path}: walks have {length} frames; a window can't have {self.window}")
        windows = _Windows(self.train.y, self.window, self.speed, self.frames, self.batch_size, self.steps)
        return DataLoader(windows, batch_size=None)


class _Windows(Dataset[of.Series]):
    """Random windows of random walks; each item is a whole batch.

    Args:
        y: (N, T, d), the walks.
        window: Number of frames of a window.
        speed: Standard deviation of the logarithm of its speed.
        frames: Number of seen frames, the first ones. All are targets.
        batch_size: Number of windows in a batch.
        steps: Number of batches in an epoch.
    """

    def __init__(self, y: Tensor, window: int, speed: float, frames: int, batch_size: int, steps: int) -> None:
        self.y, self.window, self.speed, self.batch_size, self.steps = y, window, speed, batch_size, steps
        self.t = GAP * torch.arange(window)
        self.early = (torch.arange(window) < frames)[:, None]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> of.Series:
        if index >= self.steps:
            raise IndexError(index)
        walk, last = torch.randint(len(self.y), (self.batch_size, 1)), self.y.shape[1] - 1
        speed = (self.speed * torch.randn(self.batch_size, 1)).exp().clamp(max=last / (self.window - 1))
        room = last - speed * (self.window - 1)
        start = (torch.rand_like(room) * (room.floor() + 1)).floor()
        place = (start + speed * torch.arange(self.window)).clamp(max=last)  # not beyond it by rounding
        frame = place.long().clamp(max=last - 1)
        y = torch.lerp(self.y[walk, frame], self.y[walk, frame + 1], (place - frame)[..., None])
        whole = of.Series.observed(self.t, y)
        return whole._replace(seen=whole.seen & self.early)
