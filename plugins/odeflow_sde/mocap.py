"""Mocap: walking people, recorded as angles of their joints."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

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
    targets, in validation and test those that are not seen. Values and errors are in the file's units; frames are 0.02
    apart.

    Source: Yıldız et al. (2019), "ODE²VAE", section 4.1; CMU Graphics Lab, http://mocap.cs.cmu.edu. The data are free
        for all uses, and may not be resold as such.

    Args:
        root: Folder of `mocap35.npz`.
        frames: Number of seen frames.
        steps: Number of batches in an epoch, each of all series.

    Raises:
        SettingError: An option is out of range.
    """

    def __init__(self, root: str = "~/.cache/odeflow/mocap", frames: int = 3, steps: int = 10) -> None:
        super().__init__(16, Seen(share=1.0), 0)
        of.check_least(self, 1, frames=frames, steps=steps)
        self.dim, self.path, self.frames, self.steps = 50, Path(root).expanduser() / FILE, frames, steps

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
        return repeated(self.train, self.steps)
