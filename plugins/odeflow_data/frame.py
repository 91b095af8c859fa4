"""Frame: named columns of a file, a data frame or arrays, turned into numbers, times and classes."""

import contextlib
import itertools
import os
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

import odeflow as of
from odeflow_data.archive import LARGEST, reading

MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "?"]
"""Text in a CSV file that stands for no value."""
SECONDS = {
    "microseconds": 1e-6,
    "milliseconds": 1e-3,
    "seconds": 1.0,
    "minutes": 60.0,
    "hours": 3600.0,
    "days": 86_400.0,
    "weeks": 604_800.0,
    "years": 31_557_600.0,  # Julian years, of 365.25 days
}
"""Units of time in which dates and durations are counted, in seconds."""
FORMATS = "CSV (.csv, .tsv, .txt, also gzipped), Parquet (.parquet) or NumPy (.npy, .npz)"
EXAMPLES = Path(__file__).parent / "examples"
"""Small files that come with odeflow, read as `example:NAME`; `SOURCES.md` beside them says where they are from."""
INFERRED = 10_000
"""Number of rows by which the type of a column is found."""
TEXT = (pl.String, pl.Categorical, pl.Enum)
SHOWN = 10
"""Number of columns that a message names."""


class Times(NamedTuple):
    """A column of times as numbers.

    Attributes:
        values: (N,), float64.
        clock: What they count, such as "days since 1970-01-01"; "" where the file itself holds numbers.
    """

    values: NDArray[np.float64]
    clock: str


class Classes(NamedTuple):
    """A column of classes as numbers.

    Attributes:
        codes: (N,), int64, from 0 on.
        names: The name of each class, by its number.
    """

    codes: NDArray[np.int64]
    names: tuple[str, ...]


class Frame:
    """Named columns, read when they are asked for, and no others.

    Rows are counted from 1 in messages, below a file's header.

    Args:
        columns: The table; a file is scanned, not read.
        origin: Where it comes from, for messages.
        skipped: Number of rows of the origin before these.

    Example:
        >>> frame = Frame.of({"x": [1.0, None], "kind": ["b", "a"]})
        >>> frame.numbers(["x"])
        array([[ 1.],
               [nan]])
        >>> frame.classes("kind").names
        ('a', 'b')
    """

    def __init__(self, columns: pl.LazyFrame, origin: str, skipped: int = 0) -> None:
        self.origin, self.skipped = origin, skipped
        self._columns, self._text = columns, None
        with reading(origin, f"Wanted is {FORMATS}"):
            self._types = columns.collect_schema()
        if not self.names:
            raise of.DataError(f"{origin} has no columns")

    @classmethod
    def of(cls, source: Any, key: str | None = None) -> "Frame":
        """The table in a file, a data frame of any library, or arrays.

        Args:
            source: A path, or `example:NAME` of a file that comes with odeflow; a data frame of polars, pandas, or
                whatever exports an Arrow C stream; columns by name; or an array (N, D), whose columns are x0, x1, ….
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
        return cls(_of_object(source).lazy(), described(source))

    @property
    def names(self) -> list[str]:
        """The names of all columns."""
        return self._types.names()

    def require(self, names: Sequence[str], option: str) -> None:
        """Raises unless there are such columns.

        Args:
            names: The columns.
            option: Which option names them, for the message.

        Raises:
            DataError: One is missing.
        """
        for name in names:
            if name not in self._types:
                near = get_close_matches(name, self.names, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise of.DataError(
                    f"{self.origin} has no column {name!r}, which {option} names.{hint} It has {listed(self.names)}"
                )

    def is_text(self, name: str) -> bool:
        """Whether a column holds text."""
        return isinstance(self._types[name], TEXT)

    def column(self, name: str, rows: NDArray[np.int64]) -> pl.Series:
        """The cells of a column as they are, in these rows, (N,)."""
        return self._collected([pl.col(name)], [name]).get_column(name)[rows]

    def numbers(self, names: Sequence[str]) -> NDArray[np.float64]:
        """(N, D), the values of columns; NaN where a cell is empty.

        Raises:
            DataError: A cell holds text, an infinite number, or one too large for float32.
        """
        for name in names:
            kind = self._types[name]
            if isinstance(kind, TEXT):
                self._refuse_text(name)
            elif not (kind.is_numeric() or isinstance(kind, (pl.Boolean, pl.Null))):
                raise of.DataError(
                    f"{self.origin}: column {name!r} must hold numbers; its type is {kind}. Leave it out by ignore, or "
                    "name it as time if it is one"
                )
        cells = [pl.col(name).cast(pl.String if isinstance(self._types[name], TEXT) else pl.Float64) for name in names]
        table = self._collected(cells, names).cast(pl.Float64).to_numpy(writable=True).reshape(-1, len(names))
        wrong = np.argwhere(np.abs(table) > LARGEST)
        if len(wrong):
            row, column = wrong[0]
            raise of.DataError(
                f"{self.origin}: column {names[column]!r} holds {table[row, column]:g} in row {self.row(row)}; wanted "
                "are numbers that are finite in float32. Leave the cell empty if the value is not known"
            )
        return table

    def times(self, name: str, unit: str) -> Times:
        """A column of times: numbers as they are, dates from 1970 on and durations in a unit.

        Args:
            name: The column.
            unit: One of "microseconds", …, "days", "weeks" and "years".

        Raises:
            SettingError: There is no such unit.
            DataError: The column holds something else, or a time is missing.
        """
        if unit not in SECONDS:
            raise of.SettingError(f"time_unit must be one of {', '.join(SECONDS)}; got {unit!r}")
        kind = self._types[name]
        if kind.is_numeric():
            values, clock = self.numbers([name])[:, 0], ""
        elif kind.is_temporal():
            stamp = pl.col(name).cast(pl.Datetime("us")) if isinstance(kind, (pl.Date, pl.Datetime)) else pl.col(name)
            per = 1e-9 if isinstance(kind, pl.Time) else 1e-6
            whole = stamp.cast(pl.Duration("us")) if isinstance(kind, pl.Duration) else stamp
            table = self._collected([whole.cast(pl.Int64).cast(pl.Float64)], [name])
            values = table.to_numpy()[:, 0] * (per / SECONDS[unit])
            since = " since 1970-01-01" if isinstance(kind, (pl.Date, pl.Datetime)) else ""
            clock = f"{unit}{since}"
        else:
            self._collected([pl.col(name)], [name])
            row, value = self._first(name, pl.lit(True)) or (1, "")
            raise of.DataError(
                f"{self.origin}: column {name!r} must hold times, as numbers or as dates like 2024-05-31 or "
                f"2024-05-31 18:00; row {row} holds {value!r}"
            )
        lost = np.flatnonzero(np.isnan(values))
        if len(lost):
            raise of.DataError(
                f"{self.origin}: the time in column {name!r} is missing in {self._rows(lost)}. Remove these rows"
            )
        return Times(values, clock)

    def as_times(self, name: str, values: NDArray[np.float64], unit: str) -> pl.Series:
        """Numbers as times of a column's type, the inverse of `times`; durations remain numbers.

        Args:
            name: The column.
            values: (N,), times as `times` counts them, inside or outside the file's.
            unit: The unit of dates.

        Returns:
            (N,), dates if the column holds dates and all are whole days, in the column's time zone.
        """
        kind = self._types[name]
        if kind.is_integer() and bool((values == np.rint(values)).all()):
            return pl.Series(name, values.astype(np.int64))
        if not isinstance(kind, (pl.Date, pl.Datetime)):
            return pl.Series(name, values)
        stamps = np.rint(values * (SECONDS[unit] * 1e6))
        whole = 1000 * np.rint(stamps / 1000)
        stamps = np.where(np.abs(stamps - whole) <= 2, whole, stamps)  # float64 resolves a microsecond, not better
        dates = pl.Series(name, stamps.astype(np.int64)).cast(pl.Datetime("us"))
        if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
            return dates.dt.replace_time_zone("UTC").dt.convert_time_zone(kind.time_zone)
        days = isinstance(kind, pl.Date) and bool((stamps % (SECONDS["days"] * 1e6) == 0).all())
        return dates.cast(pl.Date) if days else dates

    def as_ids(self, name: str, values: Sequence[str]) -> pl.Series:
        """Names of `classes` as values of the column's type, numbers or text."""
        ids, kind = pl.Series(name, values, dtype=pl.String), self._types[name]
        return ids.cast(kind) if kind.is_numeric() else ids

    def classes(self, name: str, known: Sequence[str] | None = None) -> Classes:
        """A column of classes, named by text or whole numbers.

        Args:
            name: The column.
            known: The names of the classes by number; by default those in the column, in order.

        Raises:
            DataError: A cell is empty, holds a fraction, or a class that is none of those that are known.
        """
        column = self._collected([pl.col(name)], [name]).get_column(name)
        lost = column.is_null().arg_true().to_numpy()
        if len(lost):
            raise of.DataError(f"{self.origin}: the class in column {name!r} is missing in {self._rows(lost)}")
        if column.dtype.is_float():
            split = (column != column.round()).arg_true().to_numpy()
            if len(split):
                raise of.DataError(
                    f"{self.origin}: column {name!r} must hold classes or ids, as text or whole numbers; row "
                    f"{self.row(split[0])} holds {column[int(split[0])]:g}. To predict numbers name it as target"
                )
            column = column.cast(pl.Int64)
        found = column.unique().sort().cast(pl.String).to_list()
        names = tuple(cast(list[str], found) if known is None else known)
        if known is not None and not set(found) <= set(names):
            text = column.cast(pl.String)
            row = int(text.is_in(names).not_().arg_true()[0])
            raise of.DataError(
                f"{self.origin}: column {name!r} holds the class {text[row]!r} in row {self.row(row)}, which was not "
                f"there in training; the classes are {listed(names)}"
            )
        number = {each: code for code, each in enumerate(names)}
        return Classes(
            column.cast(pl.String).replace_strict(number, return_dtype=pl.Int64).to_numpy(writable=True), names
        )

    def _collected(self, expressions: list[pl.Expr], names: Sequence[str]) -> pl.DataFrame:
        """The columns, in memory.

        Raises:
            DataError: They do not fit there, there are no rows, or the file is damaged.
        """
        self._require_memory(len(names))
        with self._explained(names):
            table = self._columns.select(expressions).collect()
        if not len(table):
            raise of.DataError(f"{self.origin} has no rows, only the columns {listed(self.names)}")
        return table

    def pieces(self, names: Sequence[str], size: int) -> "Iterator[Frame]":
        """Some columns, so many rows at a time, of which no more are in memory.

        Raises:
            DataError: There are no rows, or the file is damaged.
        """
        skipped = 0
        with self._explained(names):
            for table in self._columns.select(names).collect_batches(chunk_size=size, maintain_order=True):
                if len(table):
                    yield Frame(table.lazy(), self.origin, skipped)
                skipped += len(table)
        if not skipped:
            raise of.DataError(f"{self.origin} has no rows, only the columns {listed(self.names)}")

    def class_names(self, name: str) -> tuple[str, ...]:
        """The names of the classes in a column, in order, of which no more than the names are in memory."""
        found = self._columns.select(pl.col(name).unique()).collect(engine="streaming").get_column(name)
        if found.null_count() or (found.dtype.is_float() and (found != found.round()).any()):
            return self.classes(name).names  # raises, and says where
        found = found.cast(pl.Int64) if found.dtype.is_float() else found
        return tuple(found.sort().cast(pl.String).to_list())

    @contextlib.contextmanager
    def _explained(self, names: Sequence[str]) -> Generator[None]:
        """Says which cell is wrong where these columns cannot be read."""
        try:
            yield
        except of.OdeflowError:
            raise
        except pl.exceptions.ComputeError as problem:  # text below the rows by which the type was found
            with contextlib.suppress(pl.exceptions.ComputeError):  # the file is damaged
                for name in names:
                    if self._types[name].is_numeric():
                        self._refuse_text(name)
            told = " ".join(str(problem).split())[:200]
            raise of.DataError(f"{self.origin} cannot be read: {told}. Wanted is {FORMATS}") from problem
        except Exception as problem:
            raise of.DataError(f"{self.origin} cannot be read: {' '.join(str(problem).split())[:200]}") from problem

    def _refuse_text(self, name: str) -> None:
        """Raises if a cell of a column holds text that is no number, and says which."""
        found = self._first(name, pl.col(name).is_not_null() & pl.col(name).cast(pl.Float64, strict=False).is_null())
        if found is not None:
            raise of.DataError(
                f"{self.origin}: column {name!r} must hold numbers; row {found[0]} holds {found[1]!r}. Leave the "
                "column out by ignore, name it as label or series if it is one, or leave the cell empty"
            )

    def _first(self, name: str, wrong: pl.Expr) -> tuple[int, str] | None:
        """The row, from 1 on, and the text of the first cell of which something is true."""
        source = self._columns if self._text is None else self._text
        column = source.select(pl.col(name).cast(pl.String)).with_row_index("row ", offset=self.row(0)).filter(wrong)
        found = column.head(1).collect()
        return None if not len(found) else (int(found[0, 0]), str(found[0, 1]))

    @property
    def count(self) -> int:
        """The number of rows."""
        return int(self._columns.select(pl.len()).collect()[0, 0])

    def row(self, place: int) -> int:
        """The number of a row in messages, from 1 on, by its place here, from 0 on."""
        return int(self.skipped + place + 1)

    def _rows(self, places: NDArray[Any]) -> str:
        """Rows, the first few of them."""
        more = f" and {len(places) - 5:,} more" if len(places) > 5 else ""
        first = ", ".join(str(self.row(place)) for place in places[:5])
        return f"{'row' if len(places) == 1 else 'rows'} {first}{more}"

    def needed(self, count: int, free: float) -> tuple[int, int] | None:
        """Number of rows, and of bytes that so many columns of them take in batches; None if fewer than are free."""
        path = Path(self.origin)
        if not path.is_file() or path.stat().st_size * 8 < free:
            return None
        rows = self.count
        wanted = 3 * 8 * rows * count  # as numbers, and in batches
        return None if wanted <= free else (rows, wanted)

    def _require_memory(self, count: int) -> None:
        """Raises where so many columns of a file cannot be held in memory, as numbers of eight bytes."""
        free = available_memory()
        needed = None if free is None else self.needed(count, free)
        if free is not None and needed is not None:
            rows, wanted = needed
            raise of.DataError(
                f"{self.origin}: {count} columns of {rows:,} rows need {wanted / 2**30:.1f} GiB of memory; "
                f"{free / 2**30:.1f} GiB are free. Choose fewer columns, or write part of the rows to another file"
            )


def _of_file(path: Path, key: str | None) -> Frame:
    if not path.is_file():
        near = get_close_matches(path.name, [each.name for each in path.parent.glob("*")], n=1)
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise of.DataError(f"there is no file {path}.{hint} Name {FORMATS} by path")
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if key is not None and kind != ".npz":
        raise of.SettingError(f"key = {key!r} names an array of a .npz file; {path} is none")
    if kind in (".csv", ".tsv", ".txt"):
        return _of_text(path, kind)
    with reading(path, f"Wanted is {FORMATS}"):
        if kind in (".parquet", ".pq"):
            return Frame(pl.scan_parquet(path), str(path))
        if kind == ".npy":
            return Frame(_of_arrays({"x": _loaded(path)}).lazy(), str(path))
        if kind == ".npz":
            return Frame(_of_arrays(_chosen(path, key)).lazy(), str(path))
    raise of.DataError(f"{path} is of no known kind: its name ends with {kind or 'nothing'}. Wanted is {FORMATS}")


def _example(name: str) -> Path:
    """The file of an example."""
    known = sorted(file.stem for file in EXAMPLES.glob("*.csv"))
    if name not in known:
        raise of.DataError(f"there is no example {name!r}; there are {', '.join(known)}")
    return EXAMPLES / f"{name}.csv"


class _TextFrame(Frame):
    """A frame whose cells can be read again as the text that they are."""

    def __init__(self, columns: pl.LazyFrame, text: pl.LazyFrame, origin: str) -> None:
        super().__init__(columns, origin)
        self._text = text


def _of_text(path: Path, kind: str) -> Frame:
    with reading(path, f"Wanted is {FORMATS}"):
        head = [] if path.suffix == ".gz" else _head(path)
        separator = "\t" if kind == ".tsv" else _separator(head[0] if head else ",")
        comma = separator == ";" and any(re.search(r"\d,\d", line) for line in head[1:])
        options: dict[str, Any] = {"separator": separator, "decimal_comma": comma, "null_values": MISSING}
        columns = pl.scan_csv(path, infer_schema_length=INFERRED, try_parse_dates=True, **options)
        return _TextFrame(columns, pl.scan_csv(path, infer_schema=False, **options), str(path))


def _head(path: Path) -> list[str]:
    """The first lines of a text file."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        return [line.rstrip("\n") for line in itertools.islice(stream, 20)]


def _separator(header: str) -> str:
    """What separates the columns: the most frequent of comma, semicolon and tab in the header."""
    return max(",;\t", key=header.count)


def _loaded(path: Path) -> NDArray[Any]:
    with path.open("rb") as stream:
        return np.load(stream, allow_pickle=False)


def _chosen(path: Path, key: str | None) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npz` file that are columns."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        names: list[str] = list(archive.files)
        if key is not None and key not in names:
            near = get_close_matches(key, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise of.SettingError(f"{path} has no array {key!r}.{hint} It holds: {', '.join(names)}")
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
            return _of_arrays({name: source[name].to_numpy() for name in source.columns})
        if hasattr(source, "__arrow_c_stream__"):
            return pl.DataFrame(source)
        return _of_arrays({"x": np.asarray(source)})


def _of_arrays(arrays: dict[Any, Any]) -> pl.DataFrame:
    """Arrays (N,) are columns; an array (N, D) named x is the columns x0, x1, …."""
    columns: dict[str, Any] = {}
    for name, values in arrays.items():
        array = np.asarray(values)
        if array.ndim not in (1, 2):
            raise of.DataError(f"the array {name} must have the shape (rows,) or (rows, columns); it has {array.shape}")
        if array.dtype.kind not in "fiubUSOMm" or (array.ndim == 2 and array.dtype.kind in "US"):
            raise of.DataError(f"the array {name} must hold real numbers, text or dates; its dtype is {array.dtype}")
        if array.ndim == 1:
            columns[str(name)] = _column(array, values)
        else:
            columns |= {f"{name}{number}": _column(part, part) for number, part in enumerate(array.T)}
    frame = pl.DataFrame(columns)
    return frame.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))


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


def available_memory() -> int | None:
    """Bytes of memory that can be had; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):  # what files in memory take is available, too
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def listed(names: Sequence[str]) -> str:
    """Names, the first few of them."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
