"""Pendulum: mechanical systems whose motion was measured, the pendulum first of all."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import odeflow as of
from odeflow_data.archive import load, require_finite
from odeflow_data.forecast import Forecast

FILE = "schmidt_lipson.npz"
ADVICE = (
    f"Wanted is {FILE}, made of the data in the supplement of Schmidt & Lipson (2009), doi:10.1126/science.1165893: "
    "an array NAME with the columns trial, t and the variables for each of its text files, and a text NAME__header "
    "with their names. Name the folder by --data.root"
)


class Pendulum(Forecast):
    """Positions and velocities of a real pendulum, tracked by camera: the first ones train, the rest is forecast.

    The states of `real_pend_h_1` are angle (rad) and angular velocity, at 556 times from 5 to 99.5 in the units of the
    file, six a unit, of which ten gaps lack some. Times are counted from the first. The other series of the supplement
    are selected by `series`; those that begin with `real_` were measured: a spring's mass (`real_linear_h_1`), two
    coupled ones (`real_double_linear_h_1`), the double pendulum (`real_double_pend_h_1`, in two trials).

    Source: Schmidt & Lipson (2009), "Distilling Free-Form Natural Laws from Experimental Data", Science 324, 81–85,
        supplementary data.

    Args:
        root: Folder of `schmidt_lipson.npz`.
        series: Name of the series.
        trial: Index of the trial, from 0.
        known: Fraction of the measurements before the test.
        val: Fraction of the measurements, the last known ones, for validation.
        batch_time: Number of measurements in a piece.
        batch_size: Number of pieces in a batch.
        steps: Number of batches in an epoch.

    Raises:
        SettingError: An option is out of range.
        DataError: The file, or the series in it, is missing or of another form.
    """

    def __init__(
        self,
        root: str = "~/.cache/odeflow/schmidt_lipson",
        series: str = "real_pend_h_1",
        trial: int = 0,
        known: float = 0.7,
        val: float = 0.15,
        batch_time: int = 20,
        batch_size: int = 32,
        steps: int = 50,
    ) -> None:
        super().__init__(known, val, batch_time, batch_size, steps)
        self.path, self.series, self.trial = Path(root).expanduser() / FILE, series, trial
        self.variables = tuple(str(self._array(f"{series}__header")).replace("%", " ").split())
        self.dim = len(self.variables)

    def setup(self, stage: str) -> None:
        table = self._array(self.series)
        if table.ndim != 2 or table.shape[1] < 2 + self.dim:
            raise of.DataError(
                f"{self.series} in {self.path} must hold numbers in the columns trial, t and "
                f"{', '.join(self.variables)}; it has the shape {table.shape}. {ADVICE}"
            )
        require_finite(self.path, self.series, table, ADVICE)
        rows = table[table[:, 0] == self.trial]
        t = torch.from_numpy(rows[:, 1]) if len(rows) else torch.empty(0)
        if len(t) < 2 or not (t.diff() > 0).all():
            trials = ", ".join(f"{trial:g}" for trial in np.unique(table[:, 0]))
            raise of.DataError(
                f"{self.series} has no trial {self.trial} with increasing times; its trials are {trials}"
            )
        self.t = (t - t[0]).float()
        self.y = torch.from_numpy(rows[:, 2 : 2 + self.dim]).float()

    def _array(self, name: str) -> NDArray[np.float64]:
        return load(self.path, [name], [], ADVICE)[name]
