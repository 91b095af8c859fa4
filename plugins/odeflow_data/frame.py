"""Frame: named columns of a file, a data frame or arrays, turned into numbers, times and classes."""

import contextlib
from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

import odeflow as of
from odeflow_data import source, times
from odeflow_data.archive import LARGEST, reading
from odeflow_data.memory import available_memory
from odeflow_data.names import UNNAMED, listed, nearest
from odeflow_data.source import FORMATS, POINT, TEXT, given
from odeflow_data.times import Times


class Classes(NamedTuple):
    """A column of classes as numbers.

    Attributes:
        codes: (N,), int64, from 0 on.
        names: The name of each class, by its number.
    """

    codes: NDArray[np.int64]
    names: tuple[str, ...]


class Frame:
    """Named columns, read on demand, and no others.

    Rows are counted from 1 in messages, below a file's header.

    Args:
        columns: The table; a file is scanned, not read.
        origin: Where it comes from, for messages.
        skipped: Number of rows of the origin before these.
        text: The same columns as they are in the origin, for messages; None if `columns` are that.
        points: The columns of numbers with a point in a file with decimal commas, which may be either.
        codes: The columns of whole numbers with leading zeros, which are names as well as numbers.

    Example:
        >>> frame = Frame.of({"x": [1.0, None], "kind": ["b", "a"]})
        >>> frame.numbers(["x"])
        array([[ 1.],
               [nan]])
        >>> frame.classes("kind").names
        ('a', 'b')
    """

    def __init__(
        self,
        columns: pl.LazyFrame,
        origin: str,
        skipped: int = 0,
        text: pl.LazyFrame | None = None,
        points: frozenset[str] = frozenset(),
        codes: frozenset[str] = frozenset(),
    ) -> None:
        self.origin, self.skipped, self.points, self.codes = origin, skipped, points, codes
        self._columns, self._text = columns, text
        with reading(origin, f"Wanted is {FORMATS}"):
            self._types = columns.collect_schema()
        if not self.names:
            raise of.DataError(f"{origin} has no columns")

    @classmethod
    def of(cls, given: Any, key: str | None = None, na_values: Sequence[float | str] = ()) -> "Frame":
        """The table in a file, a data frame of any library, or arrays, as `source.opened` takes them.

        Args:
            given: The table.
            key: As of `source.opened`.
            na_values: As of `source.emptied`.

        Raises:
            DataError: There is no such file, it cannot be read, or it is no table.
            SettingError: `key` names no array of the file.
        """
        found = source.opened(given, key)
        columns, text = (source.emptied(each, na_values) for each in (found.columns, found.text))
        return cls(columns, found.origin, text=text, points=found.points, codes=found.codes)

    @property
    def names(self) -> list[str]:
        """The names of all columns."""
        return self._types.names()

    def others(self, taken: Collection[str]) -> list[str]:
        """The columns that are none of these, without those that have no name in the header, which it says."""
        others = [name for name in self.names if name not in taken]
        unnamed = [name for name in others if UNNAMED.fullmatch(name)]
        if unnamed:
            rank_zero_info(
                f"{self.origin}: left out is {listed(unnamed)}, without a name in the header, as pandas writes an "
                "index; name the columns to read it"
            )
        return [name for name in others if name not in unnamed]

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
                raise of.DataError(
                    f"{self.origin} has no column {name!r}, which {option} names.{nearest(name, self.names)} It has "
                    f"{listed(self.names)}"
                )

    def is_text(self, name: str) -> bool:
        """Whether a column holds text that is no number."""
        return isinstance(self._types[name], TEXT) and name not in self.codes

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
            if name in self.points:
                row, value = self._first(name, pl.col(name).str.contains(POINT)) or (1, "")
                raise of.DataError(
                    f"{self.origin} has decimal commas, and {value!r} with a point in row {row} of column {name!r}: it "
                    "may be of thousands or decimal. Write all numbers with commas, and thousands without points"
                )
        cells = [
            given(pl.col(name).cast(pl.String)) if self.is_text(name) else pl.col(name).cast(pl.Float64)
            for name in names
        ]
        table = self._collected(cells, names).cast(pl.Float64).to_numpy(writable=True).reshape(-1, len(names))
        wrong = np.argwhere(np.abs(table) > LARGEST)
        if len(wrong):
            row, column = wrong[0]
            raise of.DataError(
                f"{self.origin}: column {names[column]!r} holds {table[row, column]:g} in row {self.row(row)}; wanted "
                "are numbers that are finite in float32. Leave the cell empty if the value is not known"
            )
        return table

    def complete(self, names: Sequence[str]) -> NDArray[np.float64]:
        """(N, D), as `numbers`, of columns in which no cell is empty.

        Raises:
            DataError: A cell is empty, or as of `numbers`.
        """
        table = self.numbers(names)
        for name, column in zip(names, table.T, strict=True):
            lost = np.flatnonzero(np.isnan(column))
            if len(lost):
                where = self._rows(lost)
                raise of.DataError(
                    f"{self.origin}: the number in column {name!r} is missing in {where}. Leave their series out"
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
        if unit not in times.SECONDS:
            raise of.SettingError(f"time_unit must be one of {', '.join(times.SECONDS)}; got {unit!r}")
        kind = self._types[name]
        column = self._collected([pl.col(name)], [name]).get_column(name)
        if name in self.codes:
            column, kind = column.cast(pl.Int64), pl.Int64()
        if kind.is_numeric():
            self.numbers([name])  # refuses infinite ones
        elif not kind.is_temporal():
            no_date = pl.col(name).str.contains(r"^\s*\d+[-/:.]\d").not_()
            row, value = self._first(name, no_date) or self._first(name, pl.lit(True)) or (1, "")
            raise of.DataError(
                f"{self.origin}: column {name!r} must hold times, as numbers or as dates like 2024-05-31 or "
                f"2024-05-31 18:00; its type is {kind}, and row {row} holds {value!r}"
            )
        found = times.counted(column, unit)
        lost = np.flatnonzero(np.isnan(found.values))
        if len(lost):
            raise of.DataError(
                f"{self.origin}: the time in column {name!r} is missing in {self._rows(lost)}. Remove these rows"
            )
        return found

    def as_times(self, name: str, values: NDArray[np.float64], unit: str) -> pl.Series:
        """Numbers as times of a column's type, the inverse of `times`, inside or outside the file's."""
        kind = pl.Int64() if name in self.codes else self._types[name]
        return times.restored(values, kind, unit).alias(name)

    def as_ids(self, name: str, values: Sequence[str]) -> pl.Series:
        """Names of `classes` as values of the column's type, numbers or text."""
        ids, kind = pl.Series(name, values, dtype=pl.String), self._types[name]
        return ids.cast(kind) if kind.is_numeric() else ids

    def empty(self, name: str) -> NDArray[np.bool_]:
        """(N,), whether the cells of a column are empty."""
        return self._collected([pl.col(name).is_null()], [name]).get_column(name).to_numpy()

    def classes(self, name: str, known: Sequence[str] | None = None, rows: NDArray[np.int64] | None = None) -> Classes:
        """A column of classes, named by text or whole numbers.

        Args:
            name: The column.
            known: The names of the classes by number; by default those in the column, in order.
            rows: (N,), which rows, from 0 on; by default all.

        Raises:
            DataError: A cell is empty, holds a fraction, or a class that is none of those that are known.
        """
        column = self._collected([pl.col(name)], [name]).get_column(name)
        places = np.arange(len(column)) if rows is None else rows
        column = column[places]
        lost = column.is_null().arg_true().to_numpy()
        if len(lost):
            raise of.DataError(f"{self.origin}: the class in column {name!r} is missing in {self._rows(places[lost])}")
        if column.dtype.is_float():
            split = (column != column.round()).arg_true().to_numpy()
            if len(split):
                row, value = self.row(int(places[split[0]])), column[int(split[0])]
                raise of.DataError(
                    f"{self.origin}: column {name!r} must hold classes or ids, as text or whole numbers; row {row} "
                    f"holds {value:g}. To predict numbers name it as target"
                )
            column = column.cast(pl.Int64)
        found = column.unique().sort().cast(pl.String).to_list()
        names = tuple(cast(list[str], found) if known is None else known)
        text = column.cast(pl.String)
        if known is not None and not set(found) <= set(names):
            place = int(text.is_in(names).not_().arg_true()[0])
            raise of.DataError(
                f"{self.origin}: column {name!r} holds the class {text[place]!r} in row "
                f"{self.row(int(places[place]))}, which was not there in training; the classes are {listed(names)}"
            )
        number = {each: code for code, each in enumerate(names)}
        return Classes(text.replace_strict(number, return_dtype=pl.Int64).to_numpy(writable=True), names)

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
                    yield Frame(table.lazy(), self.origin, skipped, points=self.points, codes=self.codes)
                skipped += len(table)
        if not skipped:
            raise of.DataError(f"{self.origin} has no rows, only the columns {listed(self.names)}")

    def class_names(self, name: str) -> tuple[str, ...]:
        """The names of the classes in a column, in order, of which no more than the names are in memory.

        Raises:
            DataError: No cell has one, or a cell holds a fraction.
        """
        with self._readable():
            cells = self._columns.select(pl.col(name).drop_nulls().unique()).collect(engine="streaming")
        found = cells.get_column(name)
        if not len(found) or (found.dtype.is_float() and (found != found.round()).any()):
            return self.classes(name).names  # raises, and says where
        found = found.cast(pl.Int64) if found.dtype.is_float() else found
        return tuple(found.sort().cast(pl.String).to_list())

    def _readable(self) -> contextlib.AbstractContextManager[None]:
        """Says that the file cannot be read, where that is found."""
        return reading(self.origin, f"Wanted is {FORMATS}")

    @contextlib.contextmanager
    def _explained(self, names: Sequence[str]) -> Generator[None]:
        """Says which cell is wrong where these columns cannot be read."""
        try:
            yield
        except of.OdeflowError:
            raise
        except pl.exceptions.ComputeError as problem:  # text below the rows by which the type was found
            for name in names:
                if self._types[name].is_numeric():
                    self._refuse_text(name)
            told = " ".join(str(problem).split())[:200]
            raise of.DataError(f"{self.origin} cannot be read: {told}. Wanted is {FORMATS}") from problem
        except (Exception, pl.exceptions.PanicException) as problem:
            raise of.DataError(f"{self.origin} cannot be read: {' '.join(str(problem).split())[:200]}") from problem

    def _refuse_text(self, name: str) -> None:
        """Raises if a cell of a column holds text that is no number, and says which."""
        cells = given(pl.col(name))
        found = self._first(name, cells.is_not_null() & cells.cast(pl.Float64, strict=False).is_null())
        if found is not None:
            raise of.DataError(
                f"{self.origin}: column {name!r} must hold numbers; row {found[0]} holds {found[1]!r}. Leave the "
                "column out by ignore, name it as label or series if it is one, make a column of 0 and 1 for each of "
                "its values if it is a category, or leave the cell empty"
            )

    def _first(self, name: str, wrong: pl.Expr) -> tuple[int, str] | None:
        """The row, from 1 on, and the text of the first cell of which something is true."""
        source = self._columns if self._text is None else self._text
        column = source.select(pl.col(name).cast(pl.String)).with_row_index("row ", offset=self.row(0)).filter(wrong)
        with self._readable():
            found = column.head(1).collect()
        return None if not len(found) else (int(found[0, 0]), str(found[0, 1]))

    @property
    def count(self) -> int:
        """The number of rows.

        Raises:
            DataError: The file is damaged.
        """
        with self._readable():
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
        packed = path.suffix.lower() in (".parquet", ".pq", ".gz")  # whose size says nothing of that of the contents
        if not path.is_file() or (not packed and path.stat().st_size * 8 < free):
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
