"""Source: a file, a data frame or arrays as columns."""

import contextlib
import csv
import gzip
import itertools
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TextIO, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

import odeflow as of
from odeflow_data.archive import check_unpacked, check_unzipped, reading
from odeflow_data.names import header_names, nearest

TEXT = (pl.String, pl.Categorical, pl.Enum)
MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "?"]
"""Text that stands for no value in a CSV file, and in other columns of numbers or dates."""
FORMATS = "CSV (.csv, .tsv, .txt, also gzipped), Parquet (.parquet) or NumPy (.npy, .npz)"
EXAMPLES = Path(__file__).parent / "examples"
"""Small files that come with odeflow, read as `example:NAME`; `SOURCES.md` beside them says where they are from."""
INFERRED = 10_000
"""Number of rows by which dates in a Parquet file are found, and decimal commas and codes in a file of text."""
NUMBER = re.compile(r"\s*\"?[+-]?(\d[\d.]*)?,\d+([eE][+-]?\d+)?\"?\s*")
"""A number with a decimal comma."""
POINT = r"^\s*[+-]?\d*\.\d[\d.]*\s*$"
"""A number with points."""
CODE = r"^\s*[+-]?0\d+\s*$"
"""A whole number with leading zeros, which is a name."""
BLANKS = r"^\s|\s$"
"""Text with blanks around it, as behind separators."""


class Source(NamedTuple):
    """Columns of a table.

    Attributes:
        columns: The table; a file is scanned, not read.
        origin: Where it comes from, for messages.
        text: The same columns as they are there, those of a file of text as text.
        points: The columns of numbers with a point in a file with decimal commas.
        codes: The columns of whole numbers with leading zeros, which are text.
    """

    columns: pl.LazyFrame
    origin: str
    text: pl.LazyFrame
    points: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()


def opened(source: Any, key: str | None = None) -> Source:
    """The table in a file, a data frame of any library, or arrays.

    Args:
        source: A path, or `example:NAME` of a file that comes with odeflow; a data frame of polars, pandas, or whatever
            exports an Arrow C stream; columns by name; or an array (N, D), whose columns are x0, x1, …. Text that is
            dates becomes dates, as in a CSV file.
        key: Name of the array in a `.npz` file whose arrays are of different lengths.

    Raises:
        DataError: There is no such file, it cannot be read, or `source` is no table.
        SettingError: `key` names no array of the file.
    """
    if isinstance(source, str) and source.startswith("example:"):
        return _of_file(_example(source.removeprefix("example:")), key)
    if isinstance(source, (str, PurePath)):
        return _of_file(Path(source).expanduser(), key)
    if key is not None:
        raise of.SettingError(f"key = {key!r} names an array of a .npz file; {described(source)} needs none")
    return _typed(_of_object(source).lazy(), described(source))


def _of_file(path: Path, key: str | None) -> Source:
    if not path.is_file():
        if path.exists():
            raise of.DataError(
                f"{path} is {'a folder' if path.is_dir() else 'no regular file'}. Name {FORMATS} by path"
            )
        stems = {each.stem: each for each in path.parent.glob("*")}  # endings are alike in all files
        near = get_close_matches(path.stem, stems, n=1)
        hint = f" Did you mean {stems[near[0]]}?" if near else ""
        raise of.DataError(f"there is no file {path}.{hint} Name {FORMATS} by path")
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if key is not None and kind != ".npz":
        raise of.SettingError(f"key = {key!r} names an array of a .npz file; {path} is none")
    if kind in (".csv", ".tsv", ".txt"):
        return _of_text(path, kind)
    with reading(path, f"Wanted is {FORMATS}"):
        if kind in (".parquet", ".pq"):
            return _typed(pl.scan_parquet(path), str(path), INFERRED)
        if kind == ".npy":
            return _typed(_of_arrays({"x": _loaded(path)}, named=False).lazy(), str(path))
        if kind == ".npz":
            return _typed(_of_arrays(_chosen(path, key), named=key is None).lazy(), str(path))
    raise of.DataError(f"{path} is of no known kind: its name ends with {kind or 'nothing'}. Wanted is {FORMATS}")


def _example(name: str) -> Path:
    """The file of an example."""
    known = sorted(file.stem for file in EXAMPLES.glob("*.csv"))
    if name not in known:
        raise of.DataError(f"there is no example {name!r}; there are {', '.join(known)}")
    return EXAMPLES / f"{name}.csv"


def _of_text(path: Path, kind: str) -> Source:
    with reading(path, f"Wanted is {FORMATS}"):
        if path.suffix == ".gz":
            check_unzipped(path)
        head = _head(path)
        separator = "\t" if kind == ".tsv" else _separator(head)
        comma = separator == ";" and any(NUMBER.fullmatch(cell) for line in head[1:] for cell in line.split(separator))
        options: dict[str, Any] = {"separator": separator, "decimal_comma": comma, "null_values": MISSING}
        header = next(filter(None, csv.reader(head, delimiter=separator)), [])
        options["new_columns"] = names = header_names(path, header)
        try:
            return _of_rows(path, options)
        except pl.exceptions.ComputeError:
            _check_lengths(path, separator, len(names))
            raise


def _of_rows(path: Path, options: dict[str, Any]) -> Source:
    """The table in a file of text, read with these options of polars."""
    text = pl.scan_csv(path, infer_schema=False, **options)
    options = options | {"infer_schema_length": None, "try_parse_dates": True}
    kinds = pl.scan_csv(path, **options).collect_schema()
    codes = _matching(text.head(INFERRED), [name for name, kind in kinds.items() if kind.is_integer()], CODE)
    blank = _matching(text, [name for name, kind in kinds.items() if isinstance(kind, TEXT)], BLANKS)
    points = _matching(text, list(kinds), POINT) if options["decimal_comma"] else []
    columns = pl.scan_csv(path, schema_overrides=dict.fromkeys(codes, pl.String), **options)
    columns = columns.with_columns([_stripped(text, name) for name in blank])
    return Source(columns, str(path), text, frozenset(points), frozenset(codes))


def _matching(text: pl.LazyFrame, names: list[str], pattern: str) -> list[str]:
    """The columns in which a cell matches a pattern."""
    if not names:
        return []
    found = text.select(pl.col(names).str.contains(pattern).any()).collect(engine="streaming")
    return [name for name in names if found[name][0]]


def _stripped(text: pl.LazyFrame, name: str) -> pl.Expr:
    """How a column is read whose cells have blanks around them: as numbers, dates or text without these."""
    cells = given(pl.col(name))
    other = cells.is_not_null() & (cells.cast(pl.Float64, strict=False).is_null() | cells.str.contains(CODE))
    if not text.select(other.any()).collect(engine="streaming").item():
        return cells.cast(pl.Float64)
    return next(iter(_dates(text.select(cells).head(INFERRED).collect().get_column(name))), cells)


def _check_lengths(path: Path, separator: str, count: int) -> None:
    """Raises if a row has more cells than the header."""
    with _lines(path) as stream:
        for row, cells in enumerate(csv.reader(stream, delimiter=separator)):
            if len(cells) > count:
                raise of.DataError(
                    f"{path}: row {row} has {len(cells)} cells, and the header {count}. Name every column in the "
                    f"header, leave out separators behind the last cell, and put text that has a {separator!r} in "
                    "quotes"
                )


def _lines(path: Path) -> TextIO:
    """A text file, opened for reading."""
    return cast(TextIO, (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig"))


def _head(path: Path) -> list[str]:
    """The first lines of a text file."""
    try:
        with _lines(path) as stream:
            return [line.rstrip("\n") for line in itertools.islice(stream, INFERRED)]
    except UnicodeDecodeError as problem:
        byte = problem.object[problem.start]
        raise of.DataError(
            f"{path} is no text in UTF-8, which has no byte {byte:#x} there. Save it as UTF-8"
        ) from problem


def _separator(head: list[str]) -> str:
    """What separates the columns: the most frequent of comma, semicolon and tab in the header.

    Those that are in each of the first lines equally often come first, so that names may contain others.
    """
    header = head[0] if head else ","
    lines = [line for line in head[:20] if line.strip()]
    even = [each for each in ",;\t" if each in header and len({line.count(each) for line in lines}) == 1]
    return max(even or ",;\t", key=header.count)


def _loaded(path: Path) -> NDArray[Any]:
    with path.open("rb") as stream:
        return np.load(stream, allow_pickle=False)


def _chosen(path: Path, key: str | None) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npz` file that are columns."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        names: list[str] = list(archive.files)
        check_unpacked(path, sum(held.file_size for held in archive.zip.infolist()))
        if key is not None and key not in names:
            raise of.SettingError(f"{path} has no array {key!r}.{nearest(key, names)} It holds: {', '.join(names)}")
        chosen = {name: archive[name] for name in names if key in (None, name)}
    if len({array.shape[:1] for array in chosen.values()}) > 1:
        lengths = ", ".join(f"{name} {array.shape}" for name, array in chosen.items())
        raise of.SettingError(f"{path} holds arrays of different lengths: {lengths}. Choose one by key")
    return {"x": chosen[key]} if key is not None else chosen


def _of_object(source: Any) -> pl.DataFrame:
    """The columns of an object of Python's."""
    with reading(described(source), f"Wanted is a path, a data frame, columns by name, or {FORMATS}"):
        if isinstance(source, pl.LazyFrame):
            return source.collect()
        if isinstance(source, pl.DataFrame):
            return source
        if isinstance(source, Mapping):
            return _of_arrays(dict(cast(Mapping[Any, Any], source)))
        if type(source).__module__.partition(".")[0] == "pandas":  # without pyarrow it exports nothing
            names = header_names(described(source), list(source.columns))
            return _of_arrays({name: source[own].to_numpy() for name, own in zip(names, source.columns, strict=True)})
        if hasattr(source, "__arrow_c_stream__"):
            return pl.DataFrame(source)
        return _of_arrays({"x": np.asarray(source)}, named=False)


def _typed(columns: pl.LazyFrame, origin: str, rows: int | None = None) -> Source:
    """Columns with types, as a CSV file has them: text that is dates is dates, and NaN is an empty cell.

    Args:
        columns: The columns.
        origin: Where they come from.
        rows: Number of rows by which dates are found; by default all.
    """
    read = [pl.col(pl.Float32, pl.Float64).fill_nan(None)]
    for name, kind in columns.collect_schema().items():
        if isinstance(kind, TEXT):
            with contextlib.suppress(Exception, pl.exceptions.PanicException):  # a damaged column may not be wanted
                text = columns.select(pl.col(name).cast(pl.String))
                read += _dates((text if rows is None else text.head(rows)).collect().get_column(name))
    return Source(columns.with_columns(read), origin, columns)


def _dates(text: pl.Series) -> list[pl.Expr]:
    """How a column is read as dates or times of the day, if its text would be that in a CSV file; otherwise nothing."""
    first = text.filter(text.is_in(MISSING).not_()).head(1)
    if not len(first) or not re.match(r"\d+[-/:.]\d+", first[0]):
        return []
    written = text.to_frame().write_csv(null_value=MISSING[1]).encode()
    options: dict[str, Any] = {"infer_schema_length": None, "null_values": MISSING}
    kind = pl.read_csv(written, try_parse_dates=True, **options).dtypes[0]
    cells = given(pl.col(text.name).cast(pl.String))
    if isinstance(kind, pl.Date):
        return [cells.str.to_date()]
    if isinstance(kind, pl.Datetime):
        return [cells.str.to_datetime(time_unit=kind.time_unit, time_zone=kind.time_zone)]
    return [cells.str.to_time()] if isinstance(kind, pl.Time) else []


def given(cells: pl.Expr) -> pl.Expr:
    """Text without blanks around it, and without that which stands for no value."""
    cells = cells.str.strip_chars()
    return pl.when(cells.is_in(MISSING).not_()).then(cells)


def emptied(columns: pl.LazyFrame, na_values: Sequence[float | str]) -> pl.LazyFrame:
    """A table with empty cells for values that stand for them.

    Args:
        columns: The table.
        na_values: Numbers, of whatever type they are in the table, and texts.
    """
    texts = [str(each) for each in na_values]
    numbers = [float(each) for each in na_values if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", str(each))]
    found: list[pl.Expr] = []
    for name, kind in columns.collect_schema().items() if texts else ():
        cells = pl.col(name)
        if isinstance(kind, TEXT):
            found.append(pl.when(cells.cast(pl.String).str.strip_chars().is_in(texts).not_()).then(cells))
        elif kind.is_numeric() and numbers:
            found.append(pl.when(cells.cast(pl.Float64).is_in(numbers).not_()).then(cells))
    return columns.with_columns(found)


def _of_arrays(arrays: dict[Any, Any], named: bool = True) -> pl.DataFrame:
    """Arrays (N,), and (N, 1) if they are named, are columns; an array (N, D) is the columns x0, x1, …."""
    columns: dict[str, Any] = {}
    for name, values in arrays.items():
        array = np.asarray(values)
        if array.ndim not in (1, 2):
            raise of.DataError(f"the array {name} must have the shape (rows,) or (rows, columns); it has {array.shape}")
        if array.dtype.kind not in "fiubUSOMm" or (array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "US"):
            raise of.DataError(f"the array {name} must hold real numbers, text or dates; its dtype is {array.dtype}")
        if array.ndim == 1:
            columns[str(name)] = _column(array, values)
        elif array.shape[1] == 1 and named:
            columns[str(name)] = _column(array[:, 0], array[:, 0])
        else:
            columns |= {f"{name}{number}": _column(part, part) for number, part in enumerate(array.T)}
    return pl.DataFrame(columns)


def _column(array: NDArray[Any], values: Any) -> Any:
    """A column as polars takes it: objects, such as a list with None in it, one by one."""
    if array.dtype.kind in "Mm":
        return np.ascontiguousarray(array.astype(f"{array.dtype.str[:3]}[us]"))
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array)
    return pl.Series([None if each is None or each != each else each for each in values], strict=False)  # NaN and NaT


def described(source: Any) -> str:
    """What a table is, in a few words: its path, or its type and size."""
    if isinstance(source, (str, PurePath)):
        return str(source)
    shape = getattr(source, "shape", None)
    size = f" of {shape[0]} rows" if isinstance(shape, Sequence) and shape else ""
    return f"a {type(source).__name__}{size}"
