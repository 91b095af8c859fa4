"""Conditions: what samples of a conditional density are given, read from a file."""

from pathlib import Path

from torch import Tensor

from odeflow.errors import SettingError
from odeflow.training.units import Units


def read_conditions(path: str | None, size: int, units: Units) -> Tensor | None:
    """(N, size), the conditions in a file, in the units of batches; None if the model has none.

    Args:
        path: The file, with a column of each name of the units.
        size: Length of a condition of the model; 0 if it has none.
        units: The units of conditions.

    Raises:
        SettingError: The model has conditions and there is no file, or the other way round, or the file lacks a column.
    """
    import polars as pl

    names = units.features or tuple(f"c{number}" for number in range(size))
    if path is None and size:
        raise SettingError(f"the density depends on {', '.join(names)}: give a file with these columns by --conditions")
    if path is None:
        return None
    if not size:
        raise SettingError("--conditions: the samples of this model do not depend on conditions; leave the option out")
    file = Path(path)
    if not file.is_file() or file.suffix not in (".csv", ".parquet"):
        raise SettingError(f"--conditions must be an existing file, *.csv or *.parquet; got {path}")
    try:
        table = pl.read_csv(file) if file.suffix == ".csv" else pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as problem:
        raise SettingError(f"--conditions: {path} cannot be read: {str(problem).partition(chr(10))[0]}") from problem
    try:
        rows = table.select(pl.col(names).cast(pl.Float64)).to_torch()
    except pl.exceptions.PolarsError as problem:
        raise SettingError(f"--conditions: {path} must have the columns {', '.join(names)}, of numbers") from problem
    if not bool(rows.isfinite().all()) or not len(rows):
        raise SettingError(f"--conditions: {path} must have a row at least, and no empty cell")
    return units.standardised(rows).float()
