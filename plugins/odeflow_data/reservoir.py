"""Reservoir: a random sample of numbers that come in pieces."""

import numpy as np
from numpy.typing import NDArray


class Reservoir:
    """As many of all numbers as it holds, each with the same probability; all of them if they are fewer.

    Source: Vitter (1985), "Random Sampling with a Reservoir", by random keys as in Efraimidis & Spirakis (2006).

    Args:
        size: Maximum number of numbers.
        generator: Of the choice.

    Attributes:
        values: (M,), the sample.
    """

    def __init__(self, size: int, generator: np.random.Generator) -> None:
        self.size, self.generator = size, generator
        self.values, self._keys = np.empty(0), np.empty(0)

    def add(self, values: NDArray[np.float64]) -> None:
        """Adds numbers (N,)."""
        self.values = np.concatenate([self.values, values])
        self._keys = np.concatenate([self._keys, self.generator.random(len(values))])
        if len(self.values) > self.size:
            kept = np.argpartition(self._keys, self.size)[: self.size]
            self.values, self._keys = self.values[kept], self._keys[kept]
