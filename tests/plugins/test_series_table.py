"""Laws of tables of series: rows in any order become series with times of their own, gaps and all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import odeflow as of
from odeflow.plugin import registry
from odeflow_data import Reading, Seen, SeriesTable, Split

COUNT = 20


def rows(scale: float = 1.0, shift: float = 0.0) -> dict[str, Any]:
    """Twenty series of 3 to 7 observations of two values, some of them empty, in no order."""
    random = np.random.default_rng(0)
    lengths = random.integers(3, 8, COUNT)
    number = np.repeat(np.arange(COUNT), lengths)
    t = np.concatenate([np.sort(random.choice(50, length, replace=False)) for length in lengths]) + 100.0
    y = random.normal([5, 1000], [1, 30], (len(t), 2))
    y[::7, 1] = np.nan
    y[1::9, 0] = np.nan
    order = random.permutation(len(t))
    columns = {
        "id": number,
        "t": t,
        "a": y[:, 0] * scale + shift,
        "b": y[:, 1],
        "kind": np.where(number % 2, "odd", "even"),
    }
    return {name: column[order] for name, column in columns.items()}


def ready(table: Any, stage: str = "fit", units: of.Units | None = None, **options: Any) -> SeriesTable:
    defaults: dict[str, Any] = {"series": "id", "time": "t", "columns": ["a", "b"]}
    data = SeriesTable(table, **(defaults | options))
    if units is not None:
        data.adopt(units)
    data.setup(stage)
    return data


def everything(data: SeriesTable) -> set[tuple[float, float, float]]:
    """All that was observed, in the file's units, as (time, dimension, value)."""
    found = set()
    for part in (data.train, data.val, data.test):
        values, times = data.known.restored(part.y), data.known.restored_time(part.t)
        for series, step, dimension in part.seen.nonzero().tolist():
            found.add(
                (round(float(times[series, step]), 3), dimension, round(float(values[series, step, dimension]), 2))
            )
    return found


def test_every_observation_is_in_one_series() -> None:
    """In the file's units all that was observed is there, at its time, and nothing else; times rise in each series."""
    columns = rows()
    data = ready(columns)
    table = np.stack([columns["a"], columns["b"]], axis=1)
    wanted = {
        (float(columns["t"][row]), dimension, round(float(table[row, dimension]), 2))
        for row, dimension in np.argwhere(~np.isnan(table)).tolist()
    }
    assert everything(data) == wanted
    assert [len(part.t) for part in (data.train, data.val, data.test)] == [16, 2, 2]
    for part in (data.train, data.val, data.test):
        assert (part.t.diff(dim=1) >= 0).all()
        assert 0 <= part.t.min() <= part.t.max() <= 1
        assert (part.y[~part.seen] == 0).all()


def first_times(data: SeriesTable) -> list[list[float]]:
    """The first time of each series of each part, in the file's units."""
    return [data.known.restored_time(part.t)[:, 0].tolist() for part in (data.train, data.val, data.test)]


def test_series_are_split_like_rows(tmp_path: Path) -> None:
    """By their first times, by a column that names the part of each series, by groups of series, or by a file."""
    columns = rows()
    train, val, test = first_times(ready(columns, split=Split(by="t")))
    assert max(train) <= min(val) <= max(val) <= min(test)
    parts = np.array(["train", "train", "train", "val", "test"])[columns["id"] % 5]
    named = ready(columns | {"set": parts}, split=Split(by="set"))
    assert [len(part.t) for part in (named.train, named.val, named.test)] == [12, 4, 4]
    parts[np.flatnonzero(columns["id"] == 7)[0]] = "val"
    with pytest.raises(of.DataError, match="belong together, but set put them into"):
        ready(columns | {"set": parts}, split=Split(by="set"))
    grouped = ready(columns | {"place": columns["id"] // 4}, split=Split(0.2, 0.2, group="place"))
    assert [len(part.t) for part in (grouped.train, grouped.val, grouped.test)] == [12, 4, 4]
    np.savez(tmp_path / "test.npz", **{name: column[columns["id"] < 7] for name, column in columns.items()})
    filed = ready(columns, split=Split(test=str(tmp_path / "test.npz")))
    assert [len(part.t) for part in (filed.train, filed.val, filed.test)] == [18, 2, 7]
    wanted = [columns["t"][columns["id"] == number].min() for number in range(7)]
    np.testing.assert_allclose(first_times(filed)[2], wanted, rtol=1e-6)


def test_overlapping_windows_in_two_parts_are_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    """Windows of one series that were cut by hand share rows with those that train; series of their own share none."""
    t = np.arange(10)[None] + 5 * np.arange(20)[:, None]
    columns = {"id": np.repeat(np.arange(20), 10), "t": t.ravel(), "y": np.sin(t.ravel())}
    for changes, wanted in (({}, True), ({"y": columns["y"] + columns["id"]}, False)):
        caplog.clear()
        with caplog.at_level("INFO"):
            ready(columns | changes, columns=["y"])
        assert ("also trains, as of overlapping windows" in caplog.text) == wanted


def test_training_series_are_standardised() -> None:
    """What was observed of the training series has mean 0 and deviation 1 in each dimension."""
    data = ready(rows())
    for dimension in range(2):
        seen = data.train.y[..., dimension][data.train.seen[..., dimension]]
        torch.testing.assert_close(seen.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
        torch.testing.assert_close(seen.std(correction=0), torch.tensor(1.0), rtol=1e-5, atol=0)


def test_batches_do_not_depend_on_the_units() -> None:
    """An affine change of a column's unit leaves the batches, and is in the units."""
    plain, changed = ready(rows()), ready(rows(10, -700))
    torch.testing.assert_close(changed.train.y, plain.train.y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(changed.known.shift[0], 10 * plain.known.shift[0] - 700)
    np.testing.assert_allclose(changed.known.scale[0], 10 * plain.known.scale[0])


def test_a_whole_file_is_predicted_by_what_trained() -> None:
    """Prediction takes all series in the order of their ids, in the units and by the clock of the model, without labels."""
    data = ready(rows(), label="kind")
    later = rows()
    later["t"] = later["t"] + 50
    del later["kind"]
    found = ready(
        later,
        "predict",
        data.units,
        label="kind",
        read=Reading(classes=["even", "odd"]),
        seen=Seen("extrapolation"),
    )
    (batch,) = found.predict_dataloader()
    assert len(batch.t) == COUNT
    assert float(data.known.restored_time(batch.t).min()) == pytest.approx(later["t"].min(), rel=1e-6)
    assert not (batch.seen & batch.target).any()
    first = later["id"] == 0
    assert float(data.known.restored_time(batch.t[0]).max()) == pytest.approx(later["t"][first].max(), rel=1e-6)


def test_dates_are_times() -> None:
    """A column of dates is counted in the unit that is asked for, and the units say what it counts."""
    columns = rows()
    columns["t"] = (columns["t"] * 86_400).astype("datetime64[s]")
    data = ready(columns, read=Reading(time_unit="hours"))
    assert data.known.clock == "hours since 1970-01-01"
    assert data.known.unit == pytest.approx(24 * (rows()["t"].max() - rows()["t"].min()))


def test_each_series_has_its_class() -> None:
    """Classes are numbered by name, one a series; a series with two is an error that names it."""
    data = ready(rows(), label="kind")
    assert (data.num_classes, data.known.classes) == (2, ("even", "odd"))
    assert data.train.label is not None
    assert set(data.train.label.tolist()) == {0, 1}
    columns = rows()
    columns["kind"][np.flatnonzero(columns["id"] == 3)[0]] = "even"
    with pytest.raises(of.DataError, match="the series 3 has several classes in column 'kind'"):
        ready(columns, label="kind")


def test_duplicates_are_averaged_on_request() -> None:
    """Two rows of a series and time are refused with their numbers, or averaged, empty cells apart."""
    columns = {"id": [1, 1, 1, 2, 3], "t": [1, 0, 1, 1, 1], "a": [2.0, 5.0, 4.0, 1.0, 7.0], "b": [np.nan, 1, 3, 2, 9]}
    options: dict[str, Any] = {"split": Split(0.3, 0.3), "standardise": False, "scale_time": False}
    with pytest.raises(
        of.DataError,
        match=r"rows 1 and 3 of the series 1 have the same time\. .*duplicates mean",
    ):
        ready(columns, **options)
    data = ready(columns, read=Reading(duplicates="mean"), **options)
    data.setup("predict")
    assert data.predicted.y[0].tolist() == [[5, 1], [3, 3]]


def test_columns_may_be_series() -> None:
    """A wide table has the series of a long one, its names and gaps; a later file has series of other names."""
    t = np.arange(8.0)
    wide = {f"s{number}": np.sin(t + number) for number in range(10)}
    wide["s3"][2:4] = np.nan
    long: dict[str, Any] = {
        "series": np.repeat(list(wide), 8),
        "t": np.tile(t, 10),
        "value": np.concatenate(list(wide.values())),
    }
    data = SeriesTable({"t": t, "note": ["x"] * 8, **wide}, time="t", ignore=["note"])
    other = ready(long, columns=["value"], series="series")
    data.setup("fit")
    for part in ("train", "val", "test"):
        for one, two in zip(getattr(data, part)[:4], getattr(other, part)[:4], strict=True):
            assert torch.equal(one, two)
    later: Any = {"t": t[::-1], "north": t[::-1], "south": t[::-1] ** 2}
    registry.discover()
    again = registry.build({**data.spec, "init_args": {**data.spec["init_args"], "path": later}})
    again.adopt(data.known)
    again.setup("predict")
    table = again.table([torch.zeros(2, 8, 1)])
    assert table.columns == ["series", "t", "seen", "value", "value_true"]
    assert table["series"].to_list() == ["north"] * 8 + ["south"] * 8
    assert table["value_true"].to_list() == [*t, *t**2]


@pytest.mark.parametrize(
    ("table", "options", "told"),
    [
        ({"t": [0, 1], "a": [1.0, 2.0], "b": ["1", "x"]}, {}, "column 'b' must hold numbers; row 2 holds 'x'"),
        (
            {"t": [0, 1, 1], "a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]},
            {},
            "rows 2 and 3 of the series a have the same time; 2 rows repeat a time",
        ),
        ({"T": [0, 1], "a": [1.0, 2.0]}, {}, "no column 't', which time names"),
        ({"t": [0, 1], "a": [1.0, 2.0]}, {"columns": ["b"]}, "no column 'b', which columns names"),
        (
            {"t": [0, 1], "a": [1.0, 2.0]},
            {"label": "a"},
            "label, outcome, covariates, static and split.group are of tables with a row",
        ),
    ],
)
def test_wrong_wide_tables_are_named(table: Any, options: dict[str, Any], told: str) -> None:
    """Messages count the rows of the file."""
    with pytest.raises(of.OdeflowError) as problem:
        SeriesTable(table, time="t", **options).setup("fit")
    assert told in str(problem.value)


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        ({}, {"series": "ids"}, "no column 'ids', which series names. Did you mean 'id'?"),
        ({}, {"time": "time"}, "no column 'time', which time names"),
        ({}, {"columns": ["c"]}, "no column 'c', which columns names"),
        ({}, {"columns": None}, "column 'kind' must hold numbers; row 1 holds"),
        ({}, {"read": Reading(missing="drop")}, "does not support read.missing: an empty cell is a value"),
        ({}, {"columns": ["a"], "label": "a"}, "column 'a' is named twice"),
        ({"t": np.ones(COUNT * 9)}, {"read": Reading(duplicates="mean")}, "all times in column 't' are 1"),
        ({"a": np.ones(COUNT * 9)}, {}, "column 'a' is empty or constant in the training series"),
        (
            {"id": np.zeros(COUNT * 9)},
            {"read": Reading(duplicates="mean")},
            "has too few series: 1 train, 0 val, 0 test, but each part needs one",
        ),
        (
            {"a": np.full(COUNT * 9, np.nan), "b": np.full(COUNT * 9, np.nan)},
            {},
            "nothing was observed of the series 0, 1",
        ),
    ],
)
def test_wrong_series_are_named(change: dict[str, np.ndarray], options: dict[str, Any], told: str) -> None:
    """Messages name columns, series and rows."""
    columns = rows()
    columns |= {name: column[: len(columns["t"])] for name, column in change.items()}
    with pytest.raises(of.OdeflowError) as problem:
        ready(columns, **options)
    assert told in str(problem.value)


def test_a_run_is_told_what_its_series_are(caplog: pytest.LogCaptureFixture) -> None:
    """One line: origin, numbers of series, split, lengths, columns, gaps, times and units."""
    with caplog.at_level("INFO"):
        ready(rows())
    (line,) = (record.message for record in caplog.records if record.message.startswith("SeriesTable"))
    assert line.startswith(
        "SeriesTable: a dict: 16 series train, 2 series validate, 2 series test, split at random by seed 0"
    )
    assert "2 columns: a, b" in line
    assert "% of the cells empty; rows sorted by time; time t in the file's numbers" in line


def test_times_that_single_precision_cannot_hold_are_refused() -> None:
    """Seconds since 1970 are distinct when they are scaled, as they are by default; otherwise the message says why."""
    table = {"id": np.arange(80) // 8, "t": 1.7e9 + np.tile(np.arange(8.0), 10), "y": np.arange(80.0)}
    data = SeriesTable(table, "t", "id")
    data.setup("fit")
    torch.testing.assert_close(data.test.t, (torch.arange(8) / 7).expand(len(data.test.t), -1))
    lost = r"70 steps of time vanish in float32, such as that from 1700000000 to 1700000001 in column 't'\. "
    with pytest.raises(of.DataError, match=lost + r"Subtract the first time, or set --data\.scale_time=true"):
        SeriesTable(table, "t", "id", scale_time=False).setup("fit")
    again = SeriesTable(table, "t", "id")
    again.setup("predict")  # before the units of the model are known
    again.units = data.units
    again.setup("predict")
    (batch,) = again.predict_dataloader()
    torch.testing.assert_close(batch.t, (torch.arange(8) / 7).expand(10, -1))
    again.units = of.Units(features=("y",))
    with pytest.raises(of.DataError, match=lost):
        again.predict_dataloader()
    table["t"][:8] -= 1.7e9
    with pytest.raises(of.DataError, match=r"63 steps .* Round the times, or count those of each series from its"):
        SeriesTable(table, "t", "id").setup("fit")


def test_padded_arrays_are_rows() -> None:
    """Times (N, T) padded by NaN and values (N, T, d) are a table of the rows that there are, as the guide writes it."""
    t, y = np.array([[0.0, 1.0, np.nan], [0.5, 1.5, 2.5]]), np.arange(12.0).reshape(2, 3, 2)
    known = ~np.isnan(t)
    data = SeriesTable({"id": np.nonzero(known)[0], "t": t[known], "y": y[known]}, time="t", series="id")
    data.setup("predict")
    assert data.features == ["y0", "y1"]
    assert data.predicted.seen.sum(dim=1).tolist() == [[2, 2], [3, 3]]
    np.testing.assert_array_equal(data.rows.y, y[known])
