"""Reading: how the cells of a file are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import odeflow as of


@dataclass(frozen=True)
class Reading(of.OptionGroup):
    """How the cells of a file are read.

    Attributes:
        key: Name of the array in a `.npz` file that holds several.
        na_values: Numbers and texts that stand for an empty cell, such as -999, besides the usual ones.
        missing: Treatment of a table's rows with an empty cell: "refuse" raises an error that names them, "drop" omits
            them. Empty cells of series are values that were not observed.
        duplicates: Treatment of rows of a series that have the same time: "refuse" raises an error that names them,
            "mean" averages what was observed.
        time_unit: Unit of dates and durations; numbers are used as they are.
        memory: Number of bytes that a table may take; by default the memory that is free. A larger one, of a CSV or
            Parquet file, is read a piece at a time, in each pass anew.
        classes: The names of the classes in the order of their numbers; by default those in the file.

    Raises:
        SettingError: An option is out of range.
    """

    key: str | None = None
    na_values: Sequence[float | str] = ()
    missing: Literal["refuse", "drop"] = "refuse"
    duplicates: Literal["refuse", "mean"] = "refuse"
    time_unit: str = "days"
    classes: Sequence[str] | None = None
    memory: float | None = None

    def __post_init__(self) -> None:
        of.check_range(self, "(0, inf)", memory=self.memory)

    def refuse(self, owner: of.DataModule, **reasons: str) -> None:
        """Rejects options that a class does not support.

        Args:
            owner: The data.
            **reasons: The reason for each unsupported option.

        Raises:
            SettingError: An unsupported option differs from its default.
        """
        for name, reason in reasons.items():
            if getattr(self, name) != getattr(Reading(), name):
                raise of.SettingError(f"{type(owner).__name__} does not support read.{name}: {reason}")
