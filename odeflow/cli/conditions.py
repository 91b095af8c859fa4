"""Conditions: what samples of a conditional density are given, read from a file."""

from pathlib import Path

from torch import Tensor

from odeflow.errors import SettingError
from odeflow.training.units import Units


def read_conditions(path: str | None, size: int, units: Units) -> Tensor | None:
    """(N, size), the conditions in a file, in its units, float64; None if the model has none.

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
    wanted = f"--conditions: {path} must have the columns {', '.join(names)}, of numbers"
    lost = [name for name in names if name not in table.columns]
    if lost:
        raise SettingError(f"{wanted}; it has no {lost[0]!r}, only {', '.join(table.columns)}")
    if not len(table):
        raise SettingError(f"{wanted}; it has no row")
    try:
        rows = table.select(pl.col(names).cast(pl.Float64))
    except pl.exceptions.PolarsError as problem:
        raise SettingError(f"{wanted}; {str(problem).partition(chr(10))[0]}") from problem
    for name in names:
        wrong = (~rows[name].is_finite().fill_null(False)).arg_true()
        if len(wrong):
            raise SettingError(
                f"{wanted}, and no empty cell; in row {wrong[0] + 1} there is no finite number in {name!r}"
            )
    return rows.to_torch()
