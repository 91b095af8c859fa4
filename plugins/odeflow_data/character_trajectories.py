"""CharacterTrajectories: handwritten letters as the motion of a pen."""

from pathlib import Path

import numpy as np
import torch

import odeflow as of
from odeflow_data.archive import load, require_finite
from odeflow_data.seen import Seen
from odeflow_data.series import SeriesData, padded
from odeflow_data.shares import Shares

FILE = "character_trajectories.npz"
ARRAYS = ["labelled_x", "labelled_offsets", "labelled_y"]
LONGEST = 205
ADVICE = (
    f"Wanted is {FILE}, made of UCI's data set 175 (https://archive.ics.uci.edu/dataset/175): labelled_x (M, 3), the "
    "pen's velocities and force, series after series; labelled_offsets (N + 1,), where each begins, and the end; "
    "labelled_y (N,), the letters from 0 to 19. Name its folder by --data.root"
)


class CharacterTrajectories(SeriesData):
    """1,429 letters of 20 kinds, written on a tablet: horizontal and vertical velocity and the force on the tip.

    A letter has 109 to 205 times, evenly spaced. The published values, which are differentiated, smoothed and
    normalised, are unchanged.

    Source: Williams, Toussaint & Storkey (2006), "Extracting motion primitives from natural handwriting data", ICANN;
        "Character Trajectories", https://archive.ics.uci.edu/dataset/175, CC BY 4.0.

    Args:
        root: Folder of `character_trajectories.npz`.
        seen: The seen values and the targets.
        batch_size: Number of letters in a batch; the last one may be smaller.
        split: The fractions of the letters for validation and testing.
        span: Duration of the longest letters, in the unit of the times.

    Raises:
        SettingError: An option is out of range.
    """

    def __init__(
        self,
        root: str = "~/.cache/odeflow/character_trajectories",
        seen: Seen = Seen(),
        batch_size: int = 50,
        split: Shares = Shares(),
        span: float = 1.0,
    ) -> None:
        super().__init__(batch_size, seen, split.seed)
        of.check_range(self, "(0, inf)", span=span)
        self.dim, self.num_classes, self.span = 3, 20, span
        self.path, self.split = Path(root).expanduser() / FILE, split

    def setup(self, stage: str) -> None:
        x, offsets, label = load(self.path, ARRAYS, [], ADVICE).values()
        shapes = ", ".join(str(each.shape) for each in (x, offsets, label))
        form = x.ndim == 2 and x.shape[1] == self.dim and label.ndim == 1 and offsets.shape == (len(label) + 1,)
        whole = offsets.dtype.kind in "iu" and label.dtype.kind in "iu"
        fit = form and whole and offsets[0] == 0 and offsets[-1] == len(x) and (offsets[:-1] < offsets[1:]).all()
        if not fit or not len(label) or (label < 0).any() or (label >= self.num_classes).any():
            raise of.DataError(f"{self.path} holds inconsistent arrays, of shapes {shapes}. {ADVICE}")
        require_finite(self.path, ARRAYS[0], x, ADVICE)
        offsets = offsets.astype(np.int64)
        length = np.diff(offsets)
        t = (np.arange(len(x)) - np.repeat(offsets[:-1], length)) * (self.span / (LONGEST - 1))
        whole = padded(t, x, np.ones(x.shape, bool), offsets)
        letters = torch.from_numpy(label.astype(np.int64))
        self.divide(whole._replace(label=letters), self.split)
