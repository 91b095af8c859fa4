"""Laws of tables larger than memory: read a piece at a time, they are the tables that they are in memory."""

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import odeflow as of
from odeflow_data import Reading, Split, Table
from odeflow_data.reservoir import Reservoir
from odeflow_data.stream import Stream
from odeflow_data.survey import Moments

COUNT = 1000
SMALL = Reading(memory=20_000)


def columns() -> dict[str, Any]:
    random = np.random.default_rng(0)
    number = np.arange(COUNT)
    x = random.normal(5, [1, 1000], (COUNT, 2))
    return {"number": number, "a": x[:, 0], "b": x[:, 1], "kind": np.where(number % 3, "cold", "warm")}


@pytest.fixture(scope="module", params=["csv", "parquet"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    table, path = pl.DataFrame(columns()), tmp_path_factory.mktemp("stream") / f"rows.{request.param}"
    if request.param == "csv":
        table.write_csv(path)
    else:
        table.write_parquet(path, row_group_size=100)
    return str(path)


def ready(path: str, stage: str = "fit", **options: Any) -> Table:
    data = Table(path, **({"target": "number", "ignore": ["kind"], "batch_size": 16, "read": SMALL} | options))
    data.setup(stage)
    return data


def numbers(data: Table, loader: Any) -> list[int]:
    """The rows of a pass, by their number in the file."""
    return [round(row) for _, y in loader for row in data.known.target.restored(y)[:, 0].tolist()]


def test_parts_are_drawn_row_by_row(path: str) -> None:
    """Each row is in one part, the same in every pass, in about the shares; training's order is random, others' is not."""
    data = ready(path, split=Split(0.2, 0.3))
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    train, val, test = (numbers(data, loader) for loader in loaders)
    assert sorted(train + val + test) == list(range(COUNT))
    assert [len(loader) for loader in loaders] == [-(-len(part) // 16) for part in (train, val, test)]
    assert abs(len(val) - 200) < 50
    assert abs(len(test) - 300) < 60
    assert (val, test) == (sorted(val), sorted(test))
    again = numbers(data, data.train_dataloader())
    assert train != again
    assert sorted(train) == sorted(again)
    other = ready(path, split=Split(0.2, 0.3, seed=1))
    assert numbers(other, other.test_dataloader()) != test


def test_shuffling_is_by_the_global_seed(path: str) -> None:
    """With one seed the order of a pass is one order; neighbours of the file are not neighbours in it."""
    data = ready(path)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(numbers(data, data.train_dataloader()))
    assert found[0] == found[1] != found[2]
    assert (np.diff(found[0]) == 1).mean() < 0.05


def test_a_column_names_the_parts(path: str, tmp_path: Path) -> None:
    """With a column of parts, or with files of their own, batches and units are those of a table in memory."""
    table = pl.DataFrame(columns()).with_columns(part=pl.Series(np.resize(["train", "val", "train", "test"], COUNT)))
    table.write_parquet(tmp_path / "parts.parquet")
    table.head(100).write_csv(tmp_path / "later.csv")
    by_files: dict[str, Any] = {"split": Split(str(tmp_path / "later.csv"), str(tmp_path / "later.csv"))}
    for file, options in ((str(tmp_path / "parts.parquet"), {"split": Split(by="part")}), (path, by_files)):
        streamed, held = ready(file, **options), ready(file, **options, read=Reading())
        for one, other in zip(units(streamed), units(held), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)
        for name in ("val_dataloader", "test_dataloader"):
            batches = zip(getattr(streamed, name)(), getattr(held, name)(), strict=True)
            assert all(torch.equal(one[part], other[part]) for one, other in batches for part in range(2))


@pytest.mark.parametrize("by", ["number", "hour", "few"])
def test_a_column_orders_the_rows(tmp_path: Path, by: str) -> None:
    """Split by times or numbers, the last rows test, those that a table in memory tests; equal ones are in one part."""
    random = np.random.default_rng(1)
    table = pl.DataFrame(columns()).with_columns(
        hour=pl.Series(random.permutation(COUNT)) * pl.duration(hours=1) + pl.datetime(2024, 1, 1),
        few=pl.Series(random.integers(0, 9, COUNT)),
        kind=pl.Series(random.normal(size=COUNT)),
    )
    table.sample(fraction=1.0, shuffle=True, seed=0).write_parquet(tmp_path / "rows.parquet")
    options: dict[str, Any] = {"columns": ["a", "kind"], "target": "b", "split": Split(0.1, 0.3, by=by)}
    whole = Reading(memory=70_000)  # of which a 64th part holds the column
    streamed, held = (ready(str(tmp_path / "rows.parquet"), **options, read=read) for read in (whole, Reading()))
    assert isinstance(streamed.test, Stream)
    assert not isinstance(held.test, Stream)
    assert streamed.counts == held.counts
    for name in ("val_dataloader", "test_dataloader"):
        batches = zip(getattr(streamed, name)(), getattr(held, name)(), strict=True)
        assert all(torch.equal(one[0], other[0]) for one, other in batches)


def test_a_sample_orders_the_rows_where_memory_does_not_hold_the_column(path: str) -> None:
    """The last rows still test, in about their share."""
    data = ready(path, columns=["a"], split=Split(0.0, 0.3, by="number"))
    test = numbers(data, data.test_dataloader())
    assert test == list(range(COUNT - len(test), COUNT))
    assert abs(len(test) - 300) < 60


def test_groups_are_whole(tmp_path: Path) -> None:
    """Rows of one group are in one part, which depends on its name and the seed alone; about the shares of all groups."""
    group = np.random.default_rng(1).integers(0, 300, COUNT)
    pl.DataFrame(columns()).with_columns(group=pl.Series(group)).write_csv(tmp_path / "rows.csv")
    parts: list[tuple[set[int], ...]] = []
    for seed in (0, 0, 1):
        data = ready(str(tmp_path / "rows.csv"), columns=["a"], split=Split(0.2, 0.3, group="group", seed=seed))
        loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
        found = [numbers(data, loader) for loader in loaders]
        assert sorted(itertools.chain(*found)) == list(range(COUNT))
        parts.append(tuple({int(group[row]) for row in rows} for rows in found))
        assert sum(map(len, parts[-1])) == len(set(group))
        assert np.allclose([len(part) / 300 for part in parts[-1]], [0.5, 0.2, 0.3], atol=0.1)
    assert parts[0] == parts[1] != parts[2]


def test_a_reservoir_holds_all_or_any() -> None:
    """Up to its size it holds all numbers, beyond each with the same chance."""
    few, many = (Reservoir(100, np.random.default_rng(0)) for _ in range(2))
    for piece in np.split(np.arange(90.0), 3):
        few.add(piece)
    assert few.values.tolist() == list(range(90))
    counts = np.zeros(400)
    for seed in range(200):
        many = Reservoir(100, np.random.default_rng(seed))
        for piece in np.split(np.arange(400.0), 8):
            many.add(piece)
        counts[many.values.astype(int)] += 1
    assert counts.sum() == 200 * 100
    assert abs(counts[:200].sum() - 10_000) < 300
    assert counts.max() < 90


def units(data: Table) -> list[tuple[float, ...]]:
    """Shifts and scales of values and targets."""
    assert data.known.target is not None
    return [data.known.shift, data.known.scale, data.known.target.shift, data.known.target.scale]


def test_predictions_are_of_all_rows_in_order(path: str) -> None:
    """A file is predicted a piece at a time, and its table has the numbers of its rows."""
    known = ready(path).known
    for read in (SMALL, Reading()):
        data = Table(path, target="number", ignore=["kind"], read=read)
        data.adopt(known)
        data.setup("predict")
        x = torch.cat(list(data.predict_dataloader()))
        np.testing.assert_allclose(known.restored(x)[:, 0], columns()["a"], rtol=1e-5)
        table = data.table([torch.zeros(COUNT, 1)])
        assert table["row"].to_list() == list(range(1, COUNT + 1))
        assert table["number_true"].to_list() == list(range(COUNT))


def test_classes_are_counted(path: str) -> None:
    """Classes are numbered as in memory, and those of training counted."""
    data = ready(path, target=None, label="kind", ignore=["number"])
    labels = torch.cat([label for _, label in data.train_dataloader()])
    assert data.class_names == ("cold", "warm")
    assert data.class_counts == labels.bincount().tolist()


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        ({"a": [*range(700), "x1", *range(299)]}, {}, "column 'a' must hold numbers; row 701 holds 'x1'"),
        ({"a": [*range(700), "", *range(299)]}, {}, "the first in row 701, column 'a'"),
        ({"a": [*range(700), 1e39, *range(299)]}, {}, "column 'a' holds 1e+39 in row 701"),
        ({"a": [1] * COUNT}, {}, "column 'a' is empty or constant in the training rows"),
        ({}, {"columns": ["a"], "split": Split(by="a", group="b")}, "divided by one column; got split.by 'a' and split.group 'b'. Name the parts in one column"),
        ({"a": [*range(700), "", *range(299)]}, {"columns": ["b"], "split": Split(by="a")}, "the time in column 'a' is missing in row 701"),
        ({}, {"columns": ["b"], "split": Split(by="c")}, "has no column 'c', which split.by names"),
        ({}, {"split": Split(by="kind")}, "must say train, val or test in each row, or hold times or numbers by which rows are ordered; row 1 holds warm"),
    ],
)  # fmt: skip
def test_a_wrong_cell_is_named(tmp_path: Path, change: dict[str, Any], options: dict[str, Any], told: str) -> None:
    """Messages count the rows of the whole file."""
    table = columns() | change
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    with pytest.raises(of.OdeflowError) as problem:
        ready(str(tmp_path / "rows.csv"), **options)
    assert told in str(problem.value)


def test_empty_rows_are_left_out(tmp_path: Path) -> None:
    """With `missing: drop` the others are predicted, with their numbers."""
    table = pl.DataFrame(columns()).with_columns(a=pl.when(pl.col("number") % 7 == 0).then(None).otherwise(pl.col("a")))
    table.write_csv(tmp_path / "rows.csv")
    data = ready(str(tmp_path / "rows.csv"), "predict", read=Reading(memory=20_000, missing="drop"))
    count = sum(len(x) for x in data.predict_dataloader())
    assert count == COUNT - -(-COUNT // 7)
    assert (data.table([torch.zeros(count, 1)])["row"] % 7 != 1).all()


def test_moments_of_pieces_are_those_of_the_whole() -> None:
    """Mean, deviation and range do not depend on the cut, also far from 0."""
    rows = np.random.default_rng(0).normal(1e6, [1, 1e3], (100, 2))
    found = Moments()
    for piece in np.split(rows, [0, 1, 40, 90]):
        found.add(piece)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, rows.std(axis=0), rtol=1e-9)
    assert (found.low.tolist(), found.high.tolist()) == (rows.min(axis=0).tolist(), rows.max(axis=0).tolist())


def test_a_run_is_told_that_its_table_is_streamed(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """The summary says among how many rows are shuffled; a cap that is no number of bytes is refused."""
    with caplog.at_level("INFO"):
        ready(path)
    assert "larger than memory, shuffled among 52 rows" in caplog.text
    with pytest.raises(of.SettingError, match=r"memory must lie in \(0, inf\); got 0"):
        Reading(memory=0)
