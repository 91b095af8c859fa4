"""Shares: the fractions of series for training, validation and testing."""

from dataclasses import dataclass

import torch
from torch import Tensor

import odeflow as of


@dataclass(frozen=True)
class Shares(of.OptionGroup):
    """A random split. What is neither for validation nor for testing trains.

    Attributes:
        val: Fraction for validation.
        test: Fraction for testing.
        seed: Seed of all random numbers of the data.

    Raises:
        SettingError: An option is out of range.
    """

    val: float = 0.1
    test: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        of.check_least(self, 0, seed=self.seed)
        if not (self.val > 0 and self.test > 0 and self.val + self.test < 1):
            raise of.SettingError(
                f"split: val and test must be positive and leave a share to train on; got {self.val} and {self.test}"
            )

    def rows(self, count: int, generator: torch.Generator, owner: of.DataModule) -> tuple[Tensor, ...]:
        """The indices of the series of each part: training, validation and test.

        Args:
            count: Number of series.
            generator: The random generator.
            owner: The data, for messages.

        Raises:
            DataError: A part would be empty.
        """
        val, test = round(self.val * count), round(self.test * count)
        sizes = (count - val - test, val, test)
        if min(sizes) < 1:
            raise of.DataError(
                f"{type(owner).__name__}: of {count} series, {sizes[0]} would train, {val} validate and {test} test; "
                "each part needs one. Give more series, or other shares by --data.split.val and --data.split.test"
            )
        return torch.randperm(count, generator=generator).split(sizes)
