"""Survey: sizes and moments of the parts of a table, in one pass."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from odeflow_data.table import Part


@dataclass
class Moments:
    """Count, mean, variance and range of columns, of rows that come in pieces.

    Source: Chan, Golub & LeVeque (1983), "Algorithms for Computing the Sample Variance", equation (1.5).
    """

    count: int = 0
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    low: NDArray[np.float64] = field(default_factory=lambda: np.full(1, np.inf))
    high: NDArray[np.float64] = field(default_factory=lambda: np.full(1, -np.inf))

    def add(self, rows: NDArray[np.float64]) -> None:
        """Adds rows (N, d)."""
        if not len(rows):
            return
        mean, count = rows.mean(axis=0), self.count + len(rows)
        step = mean - self.mean
        self.squares = self.squares + ((rows - mean) ** 2).sum(axis=0) + step**2 * (self.count * len(rows) / count)
        self.mean, self.count = self.mean + step * (len(rows) / count), count
        self.low, self.high = np.minimum(self.low, rows.min(axis=0)), np.maximum(self.high, rows.max(axis=0))

    @property
    def std(self) -> NDArray[np.float64]:
        """(d,), the standard deviations."""
        return np.sqrt(self.squares / max(self.count, 1))


@dataclass
class Survey:
    """What is known of a table after one pass.

    Attributes:
        counts: Number of rows of each part.
        moments: Of the training rows' numbers, (d + k) values and what is beside them.
        classes: The number of rows of each class, (C,), in each part.
    """

    counts: list[int]
    moments: Moments
    classes: list[list[int]]

    @classmethod
    def of(cls, parts: "Iterable[tuple[int, Part]]", classes: int) -> "Survey":
        """The survey of a table.

        Args:
            parts: All rows, in pieces of one part each, with its number.
            classes: Number C of classes.
        """
        counts, moments, labels = [0, 0, 0], Moments(), torch.zeros(3, classes, dtype=torch.int64)
        for part, rows in parts:
            counts[part] += len(rows.x)
            if part == 0:
                moments.add(torch.cat([rows.x, rows.beside], dim=1).numpy())
            if rows.label is not None:
                labels[part] += rows.label.bincount(minlength=classes)
        return cls(counts, moments, labels.tolist())
