"""FileUnits: values and times of batches in figures, by the names and in the units of the data file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from torch import Tensor

import odeflow as of
from odeflow.training.units import EPOCH
from odeflow_tasks.drawing import numbers


@dataclass(frozen=True)
class FileUnits:
    """The names and units of the data file, for figures.

    Attributes:
        units: The map from batches to the file.
        time: The name of the file's times; "" if they have none.
        from_start: Whether the times of a batch count from the start of each sample.
    """

    units: of.Units
    time: str = ""
    from_start: bool = False

    @classmethod
    def known(cls, units: of.Units | None, data: of.DataModule | None) -> "FileUnits":
        """Those of a model and of the data of its trainer."""
        return cls(units or of.Units(), *(("", False) if data is None else (data.time, data.from_start)))

    def name(self, number: int, letter: str = "y") -> str:
        """The name of a feature, by its number; letter and number if the file has none."""
        features = self.units.features
        return _plain(features[number]) if number < len(features) else f"${letter}_{{{number + 1}}}$"

    def names(self, count: int, otherwise: Sequence[str] = ()) -> list[str]:
        """The names of all features; `otherwise` if the file has none."""
        named = len(self.units.features) == count or not otherwise
        return [self.name(number) for number in range(count)] if named else [_formula(name) for name in otherwise]

    def values(self, y: Tensor) -> Tensor:
        """(…, d), values in the file's units."""
        return self.units.restored(y)

    def targets(self, y: Tensor) -> Tensor:
        """(…, k), targets in the file's units."""
        return (self.units.target or of.Units()).restored(y)

    def target(self, number: int) -> str:
        """The name of a target, by its number; "target", "target 2" and so on if the file has none."""
        names = () if self.units.target is None else self.units.target.features
        if number < len(names):
            return _plain(names[number])
        return f"target {number + 1}" if number else "target"

    def series(self, batch: of.Series) -> of.Series:
        """Series with values in the file's units; times remain those of batches."""
        return batch._replace(y=self.values(batch.y))

    @property
    def comparable(self) -> bool:
        """Whether all features have one unit, as far as their scales tell, so that axes may have one aspect."""
        return len(set(self.units.scale)) == 1

    @property
    def dates(self) -> bool:
        """Whether times are dates."""
        return self.units.dates and not self.from_start

    def times(self, t: Tensor) -> np.ndarray:
        """Times of any shape in the file's units, as dates if the file has dates."""
        restored = numbers(self.units.restored_time(t))
        return self.units.calendar(restored) if self.dates else restored

    def told(self, time: Any) -> str:
        """One of `times` as text."""
        return str(time.astype("datetime64[D]")) if self.dates else f"{_plain(self.time) or '$t$'} = {time:g}"

    @property
    def time_label(self) -> str:
        """The label of an axis of times."""
        clock = self.units.clock.removesuffix(EPOCH)
        if self.from_start:
            return f"{clock or _plain(self.time)} from the start of the window"
        return f"{_plain(self.time) or '$t$'}{f' in {clock}' if clock and not self.dates else ''}"

    def label_times(self, axes: Any) -> None:
        """Labels an axis of times, with a few ticks."""
        axes.set(xlabel=self.time_label)
        if self.dates:
            locator = AutoDateLocator(minticks=3, maxticks=7)  # fits any range
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        else:
            axes.locator_params(axis="x", nbins=6)


def _formula(name: str) -> str:
    """A name as a formula if it is a letter with an index, as y_1."""
    return f"${name[0]}_{{{name[2:]}}}$" if name[1:2] == "_" and name[2:].isdigit() else _plain(name)


def _plain(name: str) -> str:
    """A name that is no formula in a figure."""
    return name.replace("$", r"\$")
