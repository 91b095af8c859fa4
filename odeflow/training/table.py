"""Tables as files: CSV, Parquet or NumPy, by the suffix."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from odeflow.errors import SettingError
from odeflow.training.files import replacing

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".csv", ".parquet", ".npz")


def check_suffix(path: Path) -> None:
    """Checks that the format of a file is known.

    Raises:
        SettingError: The file does not end with .csv, .parquet or .npz.
    """
    if path.suffix not in SUFFIXES:
        raise SettingError(f"--output must end with .csv, .parquet or .npz; got {path}")


def write_table(table: "pl.DataFrame", path: Path) -> None:
    """Writes a table atomically. In `.npz` each column is an array.

    Args:
        table: The table.
        path: The file, whose suffix names the format.

    Raises:
        SettingError: The file does not end with .csv, .parquet or .npz.
        OdeflowError: The file cannot be written.
    """
    import polars as pl

    check_suffix(path)
    with replacing(path) as part:
        if path.suffix == ".csv":
            zoned = any(isinstance(kind, pl.Datetime) and kind.time_zone for kind in table.dtypes)
            table.write_csv(part, datetime_format="%Y-%m-%d %H:%M:%S%.f" + ("%:z" if zoned else ""))
        elif path.suffix == ".parquet":
            table.write_parquet(part)
        else:
            columns = {column.name: _array(column) for column in table}
            with part.open("wb") as file:
                np.savez(file, **columns)


def _array(column: "pl.Series") -> Any:
    """The values of a column without Python objects, which would be pickled."""
    array = column.to_numpy()
    return array.astype(str) if array.dtype == object else array
