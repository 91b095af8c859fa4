"""Wide tables: a column for each series, turned into an observation a row."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from odeflow_data.frame import Frame
from odeflow_data.series_table import SERIES

VALUE = "value"
"""Name of the column of values."""


class Unpivoted(Frame):
    """The columns of a wide table as series: columns of their names, the times, and the values.

    Args:
        wide: The table.
        time: The column of times.
        columns: The columns of series; by default all others.
        ignore: Columns that are none.

    Raises:
        DataError: A column does not exist or is no number, or none is left.

    Example:
        >>> frame = Unpivoted(Frame.of({"t": [0, 1], "a": [2.0, 3.0], "b": [4.0, None]}), "t")
        >>> frame.names, frame.classes("series").names
        (['series', 't', 'value'], ('a', 'b'))
    """

    def __init__(
        self, wide: Frame, time: str, columns: Sequence[str] | None = None, ignore: Sequence[str] = ()
    ) -> None:
        wide.require([time], "time")
        wide.require(columns or (), "columns")
        chosen = columns or wide.others([time, *ignore])
        if any(wide.is_text(name) for name in chosen):  # a misspelt name may be why
            wide.require(ignore, "ignore")
        values = wide.numbers(chosen)
        self.width = len(chosen)
        rows = np.repeat(np.arange(len(values)), self.width)
        long = pl.DataFrame(
            {
                SERIES: np.tile(chosen, len(values)),
                time: wide.column(time, rows),
                VALUE: pl.Series(values.ravel(), nan_to_null=True),
            }
        )
        super().__init__(long.lazy(), wide.origin)

    def row(self, place: int) -> int:
        return int(place) // self.width + 1
