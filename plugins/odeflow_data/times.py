"""Times: numbers, dates and durations, counted in a unit, and back."""

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from odeflow.training.units import EPOCH, SECONDS


class Times(NamedTuple):
    """A column of times as numbers.

    Attributes:
        values: (N,), float64.
        clock: What they count, such as "days since 1970-01-01"; "" where the file itself holds numbers.
    """

    values: NDArray[np.float64]
    clock: str


def counted(column: pl.Series, unit: str) -> Times:
    """Numbers as they are, dates from 1970 on and durations in a unit; NaN where a cell is empty.

    Args:
        column: (N,), numbers, dates, times of the day or durations.
        unit: One of "microseconds", …, "days", "weeks" and "years".
    """
    kind = column.dtype
    if kind.is_numeric():
        return Times(column.cast(pl.Float64).to_numpy(), "")
    dates = isinstance(kind, (pl.Date, pl.Datetime))
    whole = column.cast(pl.Datetime("us")) if dates else column
    whole = whole.cast(pl.Duration("us")) if isinstance(kind, pl.Duration) else whole
    per = 1e-9 if isinstance(kind, pl.Time) else 1e-6
    values = whole.cast(pl.Int64).cast(pl.Float64).to_numpy() * (per / SECONDS[unit])
    return Times(values, f"{unit}{EPOCH}" if dates else unit)


def restored(values: NDArray[np.float64], kind: pl.DataType, unit: str) -> pl.Series:
    """Numbers as times of a type, the inverse of `counted`; durations remain numbers.

    Args:
        values: (N,), times as `counted` counts them.
        kind: The type of the column.
        unit: The unit of dates.

    Returns:
        (N,), dates if the column holds dates and all are whole days, in the column's time zone.
    """
    if kind.is_integer() and bool((values == np.rint(values)).all()):
        return pl.Series(values.astype(np.int64))
    if not isinstance(kind, (pl.Date, pl.Datetime)):
        return pl.Series(values)
    stamps = np.rint(values * (SECONDS[unit] * 1e6))
    whole = 1000 * np.rint(stamps / 1000)
    stamps = np.where(np.abs(stamps - whole) <= 2, whole, stamps)  # float64 resolves a microsecond, not better
    dates = pl.Series(stamps.astype(np.int64)).cast(pl.Datetime("us"))
    if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
        return dates.dt.replace_time_zone("UTC").dt.convert_time_zone(kind.time_zone)
    days = isinstance(kind, pl.Date) and bool((stamps % (SECONDS["days"] * 1e6) == 0).all())
    return dates.cast(pl.Date) if days else dates
