"""Laws of frames: columns of files, data frames and arrays become the same numbers, times and classes."""

import csv
import gzip
import logging
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch

import odeflow as of
from odeflow_data import frame as frames
from odeflow_data import source as sources
from odeflow_data.frame import Frame
from odeflow_data.memory import available_memory
from odeflow_data.times import SECONDS
from odeflow_data.wide import Unpivoted

ROWS: dict[str, list[Any]] = {
    "day": ["2024-02-28", "2024-02-29", "2024-03-01"],
    "x": [1.5, None, -2.0],
    "n": [3, 2, 1],
    "kind": ["b", "a", "b"],
}


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def comma_separated(path: Path, columns: dict[str, list[Any]], **options: Any) -> Path:
    """A file as Python's own csv module writes it."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, **options)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


class Exported:
    """A data frame of somebody's library."""

    def __init__(self, columns: pl.DataFrame) -> None:
        self.columns = columns

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.columns.__arrow_c_stream__(requested_schema)


KINDS = ["csv", "tsv", "semicolons", "csv.gz", "parquet", "text.parquet", "npz", "text.npz", "polars", "lazy", "arrow"]


@pytest.fixture(params=[*KINDS, "dict"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The same three rows in every form."""
    typed = pl.DataFrame(ROWS).with_columns(pl.col("day").str.to_date())
    match request.param:
        case "csv":
            return comma_separated(tmp_path / "rows.csv", ROWS)
        case "tsv":
            return str(comma_separated(tmp_path / "rows.tsv", ROWS, delimiter="\t"))
        case "semicolons":
            text = comma_separated(tmp_path / "rows.csv", ROWS, delimiter=";").read_text()
            return written(tmp_path / "rows.csv", text.replace(".", ","))
        case "csv.gz":
            text = comma_separated(tmp_path / "rows.csv", ROWS).read_bytes()
            (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(text))
            return tmp_path / "rows.csv.gz"
        case "parquet":
            typed.write_parquet(tmp_path / "rows.parquet")
            return tmp_path / "rows.parquet"
        case "text.parquet":
            text = {"day": ROWS["day"], "x": ["1.5", "NA", "-2"], "n": ["3", "2", "1"]}
            pl.DataFrame(text | {"kind": pl.Series(ROWS["kind"], dtype=pl.Categorical)}).write_parquet(
                tmp_path / "rows.parquet"
            )
            return tmp_path / "rows.parquet"
        case "text.npz":
            np.savez(tmp_path / "rows.npz", **ROWS | {"x": np.array([1.5, np.nan, -2])})
            return tmp_path / "rows.npz"
        case "npz":
            arrays = {"day": np.array(ROWS["day"], "datetime64[D]"), "x": np.array([1.5, np.nan, -2])}
            np.savez(tmp_path / "rows.npz", **arrays, n=ROWS["n"], kind=ROWS["kind"])
            return tmp_path / "rows.npz"
        case "polars":
            return typed
        case "lazy":
            return typed.lazy()
        case "arrow":
            return Exported(typed)
        case _:
            return ROWS | {"day": np.array(ROWS["day"], "datetime64[D]")}


def test_every_source_has_the_same_columns(source: Any) -> None:
    """Numbers with NaN where a cell is empty, days since 1970, classes in order of their names."""
    frame = Frame.of(source)
    assert frame.names == list(ROWS)
    np.testing.assert_array_equal(frame.numbers(["n", "x"]), [[3, 1.5], [2, np.nan], [1, -2]])
    times = frame.times("day", "days")
    assert times.clock == "days since 1970-01-01"
    np.testing.assert_array_equal(times.values, [19781, 19782, 19783])
    codes, names = frame.classes("kind")
    assert (codes.tolist(), names) == ([1, 0, 1], ("a", "b"))


def test_pandas_is_read_column_by_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of pandas needs no Arrow: its columns are arrays, objects with None or NaN among them."""

    class Column(NamedTuple):
        values: np.ndarray

        def to_numpy(self) -> np.ndarray:
            return self.values

    class DataFrame:
        columns = ("x", "kind", 0)

        def __getitem__(self, name: str | int) -> Column:
            columns = {"x": np.array([1, np.nan]), "kind": np.array(["u", None], object), 0: np.arange(2)}
            return Column(columns[name])

    monkeypatch.setattr(DataFrame, "__module__", "pandas.core.frame")
    frame = Frame.of(DataFrame())
    assert frame.names == ["x", "kind", "0"]
    np.testing.assert_array_equal(frame.numbers(["x"]), [[1], [np.nan]])
    with pytest.raises(of.DataError, match="the class in column 'kind' is missing in row 2"):
        frame.classes("kind")


def test_arrays_have_numbered_columns(tmp_path: Path) -> None:
    """An array (N, D) has the columns x0, x1, …, from a file or from torch, too."""
    array = np.arange(6.0).reshape(3, 2)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "parts.npz", train=array, other=array[:2])
    for frame in (
        Frame.of(array),
        Frame.of(torch.from_numpy(array)),
        Frame.of(tmp_path / "x.npy"),
        Frame.of(tmp_path / "parts.npz", key="train"),
    ):
        assert frame.names == ["x0", "x1"]
        np.testing.assert_array_equal(frame.numbers(["x1", "x0"]), array[:, ::-1])


@pytest.mark.parametrize("unit", SECONDS)
def test_dates_are_counted_in_every_unit(unit: str) -> None:
    """A date is the time since 1970 in the unit, a duration its length; plain numbers stay as they are."""
    seconds = np.array([0, 86_400, 31_557_600])
    frame = Frame.of({"date": seconds.astype("datetime64[s]"), "span": seconds.astype("timedelta64[s]"), "t": seconds})
    for name, clock in (("date", f"{unit} since 1970-01-01"), ("span", unit)):
        times = frame.times(name, unit)
        np.testing.assert_allclose(times.values * SECONDS[unit], seconds)
        assert times.clock == clock
    assert frame.times("t", unit).clock == ""
    np.testing.assert_array_equal(frame.times("t", unit).values, seconds)


@pytest.mark.parametrize("unit", SECONDS)
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Kolkata"])
def test_numbers_become_dates_again(unit: str, zone: str | None) -> None:
    """`as_times` is the inverse of `times`, to the millisecond of dates before 1970 and after 2100 too."""
    stamps = pl.Series(["1901-02-03 04:05:06.789", "2024-05-31 18:00:00.000", "2150-12-31 23:59:59.999"])
    dates = stamps.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", time_zone=zone)
    frame = Frame.of(pl.DataFrame({"t": dates}))
    assert frame.as_times("t", frame.times("t", unit).values, unit).equals(dates)


def test_times_keep_their_type() -> None:
    """Whole days of a column of dates are dates, other times in it are not; whole numbers stay whole; ids too."""
    days = pl.Series(["2024-02-28", "2024-02-29"]).str.to_date()
    lengths = days - days[0]
    frame = Frame.of(pl.DataFrame({"day": days, "year": [1700, 1701], "span": lengths, "name": ["a", "b"]}))
    values = frame.times("day", "days").values
    assert frame.as_times("day", values, "days").equals(days)
    assert frame.as_times("day", values + 0.5, "days").dt.hour().to_list() == [12, 12]
    assert frame.as_times("year", np.array([1702.0]), "days").to_list() == [1702]
    assert frame.as_times("year", np.array([1702.5]), "days").to_list() == [1702.5]
    assert frame.as_times("span", frame.times("span", "hours").values, "hours").to_list() == [0.0, 24.0]
    assert frame.as_ids("year", ["3"]).to_list() == [3]
    assert frame.as_ids("name", ["3"]).to_list() == ["3"]


def test_times_of_day_and_zones_are_read(tmp_path: Path) -> None:
    """18:30 is 18.5 hours; a date with a zone is the moment that it names."""
    path = written(
        tmp_path / "t.csv", "clock,moment\n18:30:00,2024-01-01T02:00:00+02:00\n00:00:00,2024-01-01T01:00:00Z\n"
    )
    frame = Frame.of(path)
    assert frame.times("clock", "hours").values.tolist() == [18.5, 0]
    assert frame.times("moment", "hours").values.tolist() == [24 * 19723, 24 * 19723 + 1]


@pytest.mark.parametrize("empty", sources.MISSING)
def test_marks_of_missing_cells_are_no_numbers(tmp_path: Path, empty: str) -> None:
    """Every usual mark of a missing cell gives NaN, and does not make text of a column."""
    path = written(tmp_path / "x.csv", f"x,y\n1,2\n{empty},3\n")
    np.testing.assert_array_equal(Frame.of(path).numbers(["x", "y"]), [[1, 2], [np.nan, 3]])


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    """What Excel writes before the header is left out."""
    assert Frame.of(written(tmp_path / "x.csv", "\ufeffx,y\n1,2\n")).names == ["x", "y"]


def test_text_that_is_dates_is_dates() -> None:
    """In data frames as in CSV files, empty cells and all; text that is no date in some row remains text."""
    stamps = ["2024-05-31 18:00:00", None, "2024-06-01 06:30:00"]
    frame = Frame.of(
        pl.DataFrame({"day": ["2024-05-31", None, "2024-06-01"], "at": stamps, "no": ["1.5", "x", "2024-01-01"]})
    )
    assert frame.column("day", np.arange(3)).to_list() == [date(2024, 5, 31), None, date(2024, 6, 1)]
    assert frame.column("at", np.arange(3))[2] == datetime(2024, 6, 1, 6, 30)
    assert frame.is_text("no")


TIMES = {
    "date": ["2024-05-31", "2024-06-01"],
    "day first": ["31/05/2024", "01/06/2024"],
    "stamp": ["2024-05-31 18:00:00", "2024-06-01 06:30:00.5"],
    "minutes": ["2024-05-31T18:00", "2024-06-01T06:30"],
    "zone": ["2024-05-31T18:00:00Z", "2024-06-01T06:30:00+02:00"],
    "clock": ["18:30:00", "06:00:00"],
}
"""Dates and times as text."""


@pytest.mark.parametrize("name", TIMES)
def test_text_of_parquet_is_read_as_that_of_csv(tmp_path: Path, name: str) -> None:
    """Dates and times in text have the same type and values, empty and marked cells too, also in pieces."""
    table = pl.DataFrame({"t": [*TIMES[name], None, "NA"], "x": [1.0, 2.0, 3.0, 4.0]})
    table.write_csv(tmp_path / "x.csv")
    table.write_parquet(tmp_path / "x.parquet")
    csv_, parquet = (Frame.of(tmp_path / file) for file in ("x.csv", "x.parquet"))
    rows = np.arange(4)
    assert parquet.column("t", rows).equals(csv_.column("t", rows))
    assert parquet.column("t", rows).dtype.is_temporal()
    piece = next(parquet.pieces(["t"], 2))
    assert piece.column("t", rows[:2]).equals(csv_.column("t", rows[:2]))


def test_a_time_below_those_that_are_looked_at_is_told(tmp_path: Path) -> None:
    """Text that is no date after 10,000 rows of dates is an error in Parquet as in CSV files, with the text."""
    table = pl.DataFrame({"t": ["2024-05-31"] * 10_001 + ["soon"]})
    table.write_csv(tmp_path / "x.csv")
    table.write_parquet(tmp_path / "x.parquet")
    for file in ("x.csv", "x.parquet"):
        with pytest.raises(of.DataError, match=r"soon"):
            Frame.of(tmp_path / file).times("t", "days")


def test_types_are_of_all_rows(tmp_path: Path) -> None:
    """A fraction, or text, that comes after thousands of whole numbers changes the type of its column."""
    late = ["1"] * 20_000
    pl.DataFrame({"a": [*late, "0.5"], "kind": [*late, "other"]}).write_csv(tmp_path / "x.csv")
    frame = Frame.of(tmp_path / "x.csv")
    assert frame.numbers(["a"])[-1, 0] == 0.5
    assert frame.classes("kind").names == frame.class_names("kind") == ("1", "other")


def test_whole_numbers_with_leading_zeros_are_names(tmp_path: Path) -> None:
    """Codes remain as they are written, and may still be numbers or times."""
    (tmp_path / "x.csv").write_text("code,id\n01,007\n1,7\n02,010\n")
    frame = Frame.of(tmp_path / "x.csv")
    assert frame.classes("code").names == ("01", "02", "1")
    assert frame.as_ids("id", frame.classes("id").names).to_list() == ["007", "010", "7"]
    assert frame.column("code", np.arange(3)).to_list() == ["01", "1", "02"]
    np.testing.assert_array_equal(frame.numbers(["code"])[:, 0], [1, 1, 2])
    np.testing.assert_array_equal(frame.times("id", "days").values, [7, 7, 10])
    assert frame.as_times("id", np.array([8.0]), "days").to_list() == [8]
    assert not frame.is_text("id")  # parts may be divided in its order


def test_gzipped_text_is_read_as_text(tmp_path: Path) -> None:
    """Semicolons and decimal commas are found there, too."""
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"a;b\n1,5;2\n3;4,5\n"))
    np.testing.assert_array_equal(Frame.of(tmp_path / "x.csv.gz").numbers(["a", "b"]), [[1.5, 2], [3, 4.5]])


def test_points_beside_decimal_commas(tmp_path: Path) -> None:
    """2.156 in a file with decimal commas may be two thousand or two: it is refused, where its column is read."""
    (tmp_path / "x.csv").write_text("price;area;note\n" + "950;227;3,5 rooms\n" * 30 + "2.156;227,8;none\n")
    frame = Frame.of(tmp_path / "x.csv")
    assert frame.numbers(["area"])[-1, 0] == 227.8
    with pytest.raises(of.DataError, match=r"decimal commas, and '2.156' with a point in row 31 of column 'price'"):
        frame.numbers(["price"])
    (tmp_path / "x.csv").write_text("price;note\n2.5;3,5 rooms\n")
    assert Frame.of(tmp_path / "x.csv").numbers(["price"])[0, 0] == 2.5


def test_columns_without_a_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """So pandas writes its index, and a separator behind the last cell makes one: they are read by name alone."""
    (tmp_path / "x.csv").write_text(",NA,b,\n0,1.5,2,\n1,2.5,3,\n")
    frame = Frame.of(tmp_path / "x.csv")
    assert frame.names == ["Unnamed: 0", "NA", "b", "Unnamed: 3"]
    with caplog.at_level(logging.INFO):
        assert frame.others(["b"]) == ["NA"]
    assert "left out is Unnamed: 0, Unnamed: 3, without a name in the header" in caplog.text
    np.testing.assert_array_equal(frame.times("Unnamed: 0", "days").values, [0, 1])
    wide = Unpivoted(frame, "b")
    assert wide.classes("series").names == ("NA",)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b, a\n1,2,3\n")
    with pytest.raises(of.DataError, match="columns 1 and 3 have the same name, 'a'"):
        Frame.of(tmp_path / "x.csv")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_blanks_beside_separators(tmp_path: Path, ending: str) -> None:
    """They are no part of names, classes, numbers and dates."""
    rows = [
        "n, x, day, id, kind",
        "1, 1.5, 2024-05-31, 007, yes",
        "2, NA, 2024-06-01, 010,yes ",
        "3,-2.5 ,2024-06-02 , 7 , no",
    ]
    (tmp_path / "x.csv").write_text(ending.join(rows), newline="")
    frame = Frame.of(tmp_path / "x.csv")
    assert frame.names == ["n", "x", "day", "id", "kind"]
    np.testing.assert_array_equal(frame.numbers(["n", "x"]), [[1, 1.5], [2, np.nan], [3, -2.5]])
    np.testing.assert_array_equal(frame.times("day", "days").values, [19874, 19875, 19876])
    assert frame.classes("kind").names == ("no", "yes")
    assert frame.classes("id").names == ("007", "010", "7")
    (tmp_path / "x.csv").write_text("a, b\n1, 2\n3, four\n")
    with pytest.raises(of.DataError, match="column 'b' must hold numbers; row 2 holds ' four'"):
        Frame.of(tmp_path / "x.csv").numbers(["b"])


def test_values_that_stand_for_none(tmp_path: Path) -> None:
    """Codes of missing values are empty cells in numbers of whatever type, in text and in messages."""
    table = {"n": [1, -999, 3], "x": [1.5, 2.5, -999.0], "kind": ["a", "off", "b"], "y": ["1", ".", "2.5"]}
    pl.DataFrame(table).write_csv(tmp_path / "x.csv")
    for given in (table, tmp_path / "x.csv"):
        frame = Frame.of(given, na_values=(-999, "off", "."))
        wanted = [[1, 1.5, 1], [np.nan, 2.5, np.nan], [3, np.nan, 2.5]]
        np.testing.assert_array_equal(frame.numbers(["n", "x", "y"]), wanted)
        assert frame.empty("kind").tolist() == [False, True, False]
        with pytest.raises(of.DataError, match="column 'y' must hold numbers; row 2 holds '\\.'"):
            Frame.of(given, na_values=[-999]).numbers(["y"])


def test_names_with_the_other_separator(tmp_path: Path) -> None:
    """The columns are separated by what is in all lines equally often."""
    (tmp_path / "x.csv").write_text("Temp, oil;RPM, mean, max\n1;2\n3;4\n")
    assert Frame.of(tmp_path / "x.csv").names == ["Temp, oil", "RPM, mean, max"]


@pytest.mark.parametrize(("encoding", "byte"), [("utf-16", "0xff"), ("latin-1", "0xe4")])
def test_text_in_other_encodings(encoding: str, byte: str, tmp_path: Path) -> None:
    """It is refused, with the byte that shows it and what to do."""
    (tmp_path / "x.csv").write_text("länge,y\n1,2\n", encoding=encoding)
    with pytest.raises(of.DataError, match=f"no text in UTF-8, which has no byte {byte} there. Save it as UTF-8"):
        Frame.of(tmp_path / "x.csv")


def test_nan_is_an_empty_cell_of_classes(tmp_path: Path) -> None:
    """A class that is NaN in a Parquet file is missing, as an empty cell of a CSV file is."""
    pl.DataFrame({"c": [1.0, float("nan")]}).write_parquet(tmp_path / "x.parquet")
    for frame in (Frame.of(tmp_path / "x.parquet"), Frame.of(pl.DataFrame({"c": [1.0, float("nan")]}))):
        with pytest.raises(of.DataError, match="the class in column 'c' is missing in row 2"):
            frame.classes("c")


def test_columns_of_one_number_a_row_keep_their_name(tmp_path: Path) -> None:
    """Targets and labels (N, 1) are columns of their names."""
    arrays = {"x": np.ones((3, 2)), "label": np.array([[1], [2], [1]])}
    np.savez(tmp_path / "x.npz", **arrays)
    for source in (arrays, tmp_path / "x.npz"):
        assert Frame.of(source).names == ["x0", "x1", "label"]
        assert Frame.of(source).classes("label").names == ("1", "2")


def test_text_that_holds_numbers_is_numbers() -> None:
    """A column of text is read if every cell in it is a number."""
    np.testing.assert_array_equal(Frame.of({"x": ["1", "2.5", None]}).numbers(["x"]), [[1], [2.5], [np.nan]])


@pytest.mark.parametrize(
    ("column", "names"),
    [([10, 9, 10], ("9", "10")), ([1.0, 2.0, 1.0], ("1", "2")), ([True, False, True], ("false", "true"))],
)
def test_classes_of_numbers_are_in_their_order(column: list[Any], names: tuple[str, ...]) -> None:
    """Whole numbers are classes in order of size, from any first one on, and floats without fractions too."""
    assert Frame.of({"c": column}).classes("c").names == names


def test_known_classes_keep_their_numbers() -> None:
    """A later file, which lacks some classes, numbers the others as before."""
    assert Frame.of({"c": ["c", "b"]}).classes("c", ("a", "b", "c")).codes.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("text", "use", "told"),
    [
        ("a,b\n1,2\n", lambda frame: frame.require(["aa"], "target"), "no column 'aa', which target names. Did you mean 'a'? It has a, b"),
        ("a,b\n", lambda frame: frame.numbers(["a"]), "has no rows, only the columns a, b"),
        ("a,b\n", lambda frame: frame.times("a", "days"), "has no rows, only the columns a, b"),
        ("a,b\n1,x\n", lambda frame: frame.numbers(["a", "b"]), "column 'b' must hold numbers; row 1 holds 'x'"),
        ("a\n" + "1\n" * 20_000 + "x1\n", lambda frame: frame.numbers(["a"]), "column 'a' must hold numbers; row 20001 holds 'x1'"),
        ("a\n2024-01-01\n", lambda frame: frame.numbers(["a"]), "its type is Date. Leave it out by ignore"),
        ("a\n1e39\n", lambda frame: frame.numbers(["a"]), "column 'a' holds 1e+39 in row 1"),
        ("a\nsoon\n", lambda frame: frame.times("a", "days"), "row 1 holds 'soon'"),
        ("a,b\n1,\n2,3\n", lambda frame: frame.times("b", "days"), "the time in column 'b' is missing in row 1"),
        ("a\n1\n", lambda frame: frame.times("a", "day"), "time_unit must be one of microseconds"),
        ("a,b\nx,\ny,1\n", lambda frame: frame.classes("b"), "the class in column 'b' is missing in row 1"),
        ("a\n1\n0.5\n", lambda frame: frame.classes("a"), "row 2 holds 0.5. To predict numbers name it as target"),
        ("a\nx\nz\n", lambda frame: frame.classes("a", ["x", "y"]), "the class 'z' in row 2, which was not there in training"),
        ("a,b\n1,2\n1,2,3\n", lambda frame: frame.numbers(["a", "b"]), "row 2 has 3 cells, and the header 2. Name every"),
        ("", lambda frame: frame, "cannot be read: empty CSV"),
    ],
)  # fmt: skip
def test_a_wrong_cell_is_named(tmp_path: Path, text: str, use: Any, told: str) -> None:
    """Messages name the file, the column, the row and the value."""
    path = written(tmp_path / "x.csv", text)
    with pytest.raises(of.OdeflowError) as problem:
        use(Frame.of(path))
    assert told in str(problem.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("table.csv", "there is no file .*table.csv. Name CSV"),
        ("preset.csv", "Did you mean .*present.csv"),
        ("nope.csv", r"there is no file .*nope\.csv\. Name CSV"),
        ("folder", "folder is a folder. Name CSV"),
        ("book.xls", "its name ends with .xls. Wanted is CSV"),
        ("broken.parquet", "broken.parquet cannot be read"),
        ("broken.npz", "broken.npz cannot be read"),
        ("two.npz", r"arrays of different lengths: a \(3,\), b \(2,\). Choose one by key"),
        ("deep.npy", r"must have the shape \(rows,\) or \(rows, columns\); it has \(2, 2, 2\)"),
        ("complex.npy", "its dtype is complex128"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, told: str) -> None:
    """Absent, damaged, of another kind, or arrays that are no columns."""
    written(tmp_path / "present.csv", "x\n1\n")
    (tmp_path / "folder").mkdir()
    for broken in ("book.xls", "broken.parquet", "broken.npz"):
        written(tmp_path / broken, "?")
    np.savez(tmp_path / "two.npz", a=np.ones(3), b=np.ones(2))
    np.save(tmp_path / "deep.npy", np.ones((2, 2, 2)))
    np.save(tmp_path / "complex.npy", np.ones(2, complex))
    with pytest.raises(of.OdeflowError, match=told):
        Frame.of(tmp_path / name)


def test_the_nearest_column_is_found_whatever_its_case(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "price,Width\n1,2\n")
    for name, told in (("Price", "Did you mean 'price'"), ("widht", "Did you mean 'Width'")):
        with pytest.raises(of.DataError, match=told):
            Frame.of(path).require([name], "target")


def test_keys_are_of_archives(tmp_path: Path) -> None:
    """A key that names no array is an error with the nearest; elsewhere there are no keys."""
    np.savez(tmp_path / "x.npz", train=np.ones(3), test=np.ones(2))
    with pytest.raises(of.SettingError, match=r"no array 'trian'. Did you mean 'train'"):
        Frame.of(tmp_path / "x.npz", key="trian")
    with pytest.raises(of.SettingError, match=r"names an array of a .npz file"):
        Frame.of(written(tmp_path / "x.csv", "a\n1\n"), key="a")
    with pytest.raises(of.SettingError, match="a dict needs none"):
        Frame.of({"a": [1]}, key="a")


def test_too_large_a_table_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the columns do not fit in memory the message says how much they need; fewer of them are read."""
    pl.DataFrame({f"c{number}": np.random.default_rng(0).random(10_000) for number in range(10)}).write_parquet(
        tmp_path / "x.parquet"
    )
    monkeypatch.setattr(frames, "available_memory", lambda: 1_000_000)
    frame = Frame.of(tmp_path / "x.parquet")
    with pytest.raises(of.DataError, match=r"10 columns of 10,000 rows need 0.0 GiB"):
        frame.numbers(frame.names)
    assert frame.numbers(["c3"]).shape == (10_000, 1)


def test_unused_columns_are_not_read(tmp_path: Path) -> None:
    """A column is read although another is damaged, which is an error only for whoever reads that one."""
    path = tmp_path / "x.parquet"
    pl.DataFrame({"damaged": np.random.default_rng(0).random(100), "whole": np.arange(100)}).write_parquet(path)
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(400) + content[404:])  # after "PAR1" comes the first column
    frame = Frame.of(path)
    np.testing.assert_array_equal(frame.numbers(["whole"])[:, 0], np.arange(100))
    with pytest.raises(of.DataError, match=r"x.parquet cannot be read"):
        frame.numbers(["damaged"])


def test_memory_where_the_system_says_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc free pages are counted; where these are unknown, too, there is no limit."""

    def missing(*_: Any) -> Any:
        raise OSError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr("os.sysconf", {"SC_AVPHYS_PAGES": 3, "SC_PAGE_SIZE": 4096}.get)
    assert available_memory() == 3 * 4096
    monkeypatch.setattr("os.sysconf", missing)
    assert available_memory() is None
