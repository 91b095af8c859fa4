"""Mocap: walking people, recorded as angles of their joints."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

import odeflow as of
from odeflow_data.archive import load, require_finite
from odeflow_data.pieces import Pieces
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
    targets, in validation and test those that are not seen. A walk may begin at any phase of the step, so that training
    on a `window` of it, which begins anywhere, has more to learn from. Values and errors are in the file's units;
    frames are 0.02 apart.

    Source: Yıldız et al. (2019), "ODE²VAE", section 4.1; CMU Graphics Lab, http://mocap.cs.cmu.edu. The data are free
        for all uses, and may not be resold as such.

    Args:
        root: Folder of `mocap35.npz`.
        frames: Number of seen frames.
        steps: Number of batches in an epoch.
        window: Number of frames of a training series, which begins at a random frame of a random walk; by default whole
            walks train.
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
        batch_size: int = 64,
    ) -> None:
        super().__init__(batch_size, Seen(share=1.0), 0)
        of.check_least(self, 1, frames=frames, steps=steps)
        if window is not None:
            of.check_least(self, frames + 1, window=window)
        self.dim, self.path, self.frames, self.steps = 50, Path(root).expanduser() / FILE, frames, steps
        self.window = window

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
        walks, length = self.train.y.shape[:2]
        if self.window > length:
            raise of.DataError(f"{self.path}: walks have {length} frames; a window can't have {self.window}")
        starts = length * torch.arange(walks)[:, None] + torch.arange(length - self.window + 1)
        pieces = Pieces(
            self.train.t[0, : self.window],
            self.train.y.flatten(0, 1),
            starts.flatten(),
            self.batch_size,
            self.steps,
            seen=self.frames,
        )
        return DataLoader(pieces, batch_size=None)
