"""Laws of tables: rows of anyone's file, split, standardised by what trained, and read alike ever after."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

import odeflow as of
from odeflow.plugin import registry
from odeflow_data import Reading, Split, Table


def numbers(count: int = 40) -> Any:
    """Columns of all sizes, of which no row is there twice, a target that follows from them, and classes."""
    random = np.random.default_rng(0)
    x = random.normal(5, [0.01, 1, 1000], (count, 3))
    target = 100 * x[:, 0] - x[:, 1]
    kind = np.where(target > np.median(target), "high", "low")
    return {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "target": target, "kind": kind, "day": random.permutation(count)}


def chosen(names: Sequence[str], count: int = 40) -> Any:
    """Some of the columns, and their first rows."""
    return {name: numbers()[name][:count] for name in names}


def written(path: Path, columns: dict[str, Any]) -> str:
    """A file as Python's own csv module writes it."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return str(path)


def ready(path: Any, stage: str = "fit", **options: Any) -> Table:
    data = Table(path, **options)
    data.setup(stage)
    return data


def density(path: Any, **options: Any) -> Table:
    return ready(path, columns=["a", "b", "c"], **options)


def restored(data: Table) -> Tensor:
    """All parts in the units of the file."""
    return data.known.restored(torch.cat([data.train.x, data.val.x, data.test.x]))


def values(count: int = 40) -> Tensor:
    return torch.from_numpy(np.stack([numbers(count)[name] for name in "abc"], axis=1))


# The parts


@pytest.mark.parametrize(("val", "test", "sizes"), [(0.1, 0.1, [32, 4, 4]), (0.25, 0.5, [10, 10, 20])])
def test_the_parts_are_shares_and_lose_no_row(val: float, test: float, sizes: list[int]) -> None:
    """Training, validation and test have their shares, and are the file's rows together, each once, in some order."""
    data = density(numbers(), split=Split(val, test))
    assert [len(part.x) for part in (data.train, data.val, data.test)] == sizes
    found, whole = restored(data), values()
    torch.testing.assert_close(found.sort(dim=0).values, whole.sort(dim=0).values, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, whole, rtol=1e-3)


def test_one_seed_gives_one_split() -> None:
    """The split depends on the seed alone: not on the global generator, the stage or the batches."""
    tests = []
    for global_seed, seed, batch_size in [(0, 0, 10), (1, 0, 3), (1, 1, 10)]:
        torch.manual_seed(global_seed)
        data = density(numbers(), stage="test" if global_seed else "fit", split=Split(seed=seed), batch_size=batch_size)
        tests.append(data.known.restored(data.test.x))
    assert torch.equal(tests[0], tests[1])
    assert not torch.equal(tests[0], tests[2])


def test_the_last_rows_in_time_test() -> None:
    """Split by a column of time, every training row is earlier than every validation row, these than every test row."""
    columns = numbers()
    data = density(columns, split=Split(by="day"))
    days = [columns["day"][part.row] for part in (data.train, data.val, data.test)]
    assert days[0].max() < days[1].min() <= days[1].max() < days[2].min()


def test_a_column_says_what_a_row_is_for() -> None:
    """Split by a column, each part has the rows that name it."""
    parts = np.resize(["train", "train", "val", "test"], 40)
    data = density(numbers() | {"set": parts}, split=Split(by="set"))
    assert data.train.row.tolist() == np.flatnonzero(parts == "train").tolist()
    assert data.test.row.tolist() == np.flatnonzero(parts == "test").tolist()
    with pytest.raises(
        of.DataError, match=r"column 'set' must say train, val or test in each row, or .*row 3 holds valid"
    ):
        density(numbers() | {"set": np.char.replace(parts, "val", "valid")}, split=Split(by="set"))


def test_groups_are_in_one_part() -> None:
    """Rows of one group are together, at random by the seed and in time by their first row."""
    columns = numbers() | {"patient": np.arange(40) // 2 % 10}
    for by in (None, "day"):
        data = density(columns, split=Split(0.2, 0.2, by, "patient"))
        patients = [set(columns["patient"][part.row]) for part in (data.train, data.val, data.test)]
        assert [len(part) for part in patients] == [6, 2, 2]
        assert len(set.union(*patients)) == 10
    first = {patient: columns["day"][columns["patient"] == patient].min() for patient in range(10)}
    assert max(first[patient] for patient in patients[0]) < min(first[patient] for patient in patients[2])
    parts = np.resize(["train", "train", "val", "train", "train", "test"], 40)
    with pytest.raises(
        of.DataError, match="rows 3 and 4 belong together, but set and patient put them into val and train"
    ):
        density(columns | {"set": parts}, split=Split(by="set", group="patient"))


def test_parts_can_be_files_of_their_own(tmp_path: Path) -> None:
    """A file for the test leaves all but the validation share of the first file to training."""
    columns = numbers()
    later = {name: column[:7] for name, column in columns.items()}
    data = density(columns, split=Split(test=written(tmp_path / "test.csv", later)))
    assert [len(part.x) for part in (data.train, data.val, data.test)] == [36, 4, 7]
    torch.testing.assert_close(data.known.restored(data.test.x), values()[:7], rtol=1e-5, atol=1e-5)


def test_rows_with_empty_cells_are_left_out_on_request() -> None:
    """No row with an empty cell trains or tests; without leave it is an error that names row and column."""
    columns = numbers()
    columns["b"][[3, 17]] = np.nan
    data = density(columns, read=Reading(missing="drop"), split=Split(by="day"))
    rows = torch.cat([data.train.row, data.val.row, data.test.row])
    assert sorted(rows.tolist()) == [row for row in range(40) if row not in (3, 17)]
    assert restored(data).isfinite().all()
    with pytest.raises(of.DataError, match=r"2 of 40 rows have empty cells, the first in row 4, column 'b'"):
        density(columns)


def test_rows_without_a_class_are_left_out_on_request() -> None:
    """As rows with another empty cell; without leave the error names the row."""
    columns = numbers()
    columns["kind"] = np.where(np.isin(np.arange(40), (3, 17)), None, columns["kind"])
    data = ready(columns, label="kind", ignore=["target", "day"], read=Reading(missing="drop"))
    rows = torch.cat([data.train.row, data.val.row, data.test.row])
    assert sorted(rows.tolist()) == [row for row in range(40) if row not in (3, 17)]
    assert data.num_classes == 2
    with pytest.raises(of.DataError, match=r"2 of 40 rows have empty cells, the first in row 4, column 'kind'"):
        ready(columns, label="kind", ignore=["target", "day"])


# Units


def test_training_rows_are_standardised() -> None:
    """Values and targets have mean 0 and deviation 1 in training; other parts are measured by the same."""
    data = ready(numbers(1000), target="target", ignore=["kind", "day"])
    for part in (data.train.x, data.train.beside):
        torch.testing.assert_close(part.mean(dim=0), torch.zeros(part.shape[1]), rtol=0, atol=1e-6)
        torch.testing.assert_close(part.std(dim=0, correction=0), torch.ones(part.shape[1]))
    assert data.test.x.mean(dim=0).abs().min() > 1e-4
    assert data.known.features == ("a", "b", "c")
    assert data.known.target is not None
    assert data.known.target.features == ("target",)


def test_standardisation_can_be_left_out() -> None:
    """Without it the rows are the file's, and columns may be constant."""
    data = density(numbers() | {"b": np.full(40, 7.0)}, standardise=False)
    assert data.known.same
    assert torch.equal(restored(data)[:, 1], torch.full((40,), 7.0))


def test_units_survive_json() -> None:
    """Names, classes and the units of targets are stored with the rest."""
    each: dict[str, Any]
    for each in ({"target": ["target", "b"]}, {"label": "kind"}):
        units = ready(numbers(), ignore=["day", "kind" if "target" in each else "target"], **each).known
        assert of.Units.of(json.loads(json.dumps(units.plain()))) == units


def test_other_columns_of_a_later_file_do_not_matter() -> None:
    """With the units of a model the columns that it knows are read, in its order, from wherever they are."""
    data = density(numbers())
    columns = numbers()
    found: Any = {"extra": columns["kind"], "c": columns["c"], "b": columns["b"], "a": columns["a"]}
    again = Table(found)
    again.adopt(data.known)
    again.setup("predict")
    torch.testing.assert_close(data.known.restored(again.predicted.x), values(), rtol=1e-5, atol=1e-5)
    lacking = Table(chosen("b"))
    lacking.adopt(data.known)
    with pytest.raises(of.DataError, match="no column 'a', which columns names"):
        lacking.setup("predict")


# Roles and batches


def test_batches_follow_the_roles() -> None:
    """X alone, with targets (B, k), or with classes (B,); training's are shuffled, and none loses a row."""
    alone = density(numbers(), batch_size=10)
    first, second = list(alone.train_dataloader()), list(alone.train_dataloader())
    assert [(batch.shape, batch.dtype) for batch in first[-2:]] == [((10, 3), torch.float32), ((2, 3), torch.float32)]
    assert not torch.equal(first[0], second[0])
    assert torch.equal(torch.cat(first).sort(dim=0).values, alone.train.x.sort(dim=0).values)
    (both,) = ready(numbers(), target=["target", "b"], ignore=["kind", "day"]).train_dataloader()
    assert [part.shape for part in both] == [(32, 2), (32, 2)]
    (labelled,) = ready(numbers(), label="kind", ignore=["target", "day"]).train_dataloader()
    assert labelled[1].dtype == torch.int64
    assert set(labelled[1].tolist()) == {0, 1}


def test_conditions_are_beside_the_values() -> None:
    """With a condition batches are (x, c), also in prediction; both are standardised, and the model keeps the units."""
    data = ready(numbers(1000), columns=["a", "b"], condition=["c", "day"])
    assert (data.dim, data.num_conditions) == (2, 2)
    x, condition = next(iter(data.train_dataloader()))
    assert [part.shape for part in (x, condition)] == [(256, 2), (256, 2)]
    torch.testing.assert_close(data.train.beside.std(dim=0, correction=0), torch.ones(2))
    units = of.Units.of(json.loads(json.dumps(data.known.plain())))
    assert units == data.units
    assert units.condition is not None
    later = Table(chosen(("day", "c", "b", "a")), columns=["a", "b"], condition=["c", "day"])
    later.adopt(units)
    later.setup("predict")
    ((x, condition),) = later.predict_dataloader()
    assert units.condition.restored(condition)[:, 1].round().tolist() == numbers()["day"].tolist()
    torch.testing.assert_close(units.restored(x)[:, 0], values()[:, 0], rtol=1e-5, atol=1e-5)


def test_rows_keep_what_belongs_to_them() -> None:
    """Values, targets and classes of a row stay together through split and shuffling."""
    data = ready(numbers(), target="target", ignore=["kind", "day"])
    (batch,) = data.train_dataloader()
    x, y = data.known.restored(batch[0]), (data.known.target or of.Units()).restored(batch[1])
    torch.testing.assert_close(y[:, 0], 100 * x[:, 0] - x[:, 1], rtol=1e-4, atol=1e-4)
    labelled = ready(numbers(), label="kind", ignore=["target", "day"])
    x, labels = next(iter(labelled.train_dataloader()))
    x = labelled.known.restored(x)
    assert torch.equal((100 * x[:, 0] - x[:, 1] < np.median(numbers()["target"])).long(), labels)


def test_sizes_are_known_from_the_file() -> None:
    """What the command line passes on: columns, targets and classes."""
    data = Table(numbers(), target="target", ignore=["kind", "day"])
    assert (data.dim, data.num_outputs) == (3, 1)
    assert not hasattr(data, "num_classes")
    assert Table(numbers(), label="kind", ignore=["day"]).num_classes == 2


def test_a_whole_file_is_predicted_in_its_order() -> None:
    """Prediction takes every row once, without targets or labels, even of a file of one row."""
    data = density(numbers())
    for count in (40, 1):
        later = Table(chosen("abc", count), columns=["a", "b", "c"], target="target")
        later.adopt(data.known)
        later.setup("predict")
        found = torch.cat(list(later.predict_dataloader()))
        torch.testing.assert_close(data.known.restored(found), values()[:count], rtol=1e-5, atol=1e-5)


def test_targets_of_a_file_to_predict_need_not_be_known() -> None:
    """Neither one nor several: its table has the predictions, in the file's units, and the truth where the file has it."""
    columns = numbers() | {"twice": [2 * each for each in numbers()["target"]]}
    for targets in (["target"], ["target", "twice"]):
        data = Table(columns, columns=["a", "b"], target=targets)
        data.setup("fit")
        for later, truth in ((columns, [f"{name}_true" for name in targets]), (chosen("ab", 7), [])):
            other = Table(later, columns=["a", "b"], target=targets)
            other.adopt(data.known)
            other.setup("predict")
            (x,) = (
                torch.cat([batch[0] if isinstance(batch, list | tuple) else batch])
                for batch in other.predict_dataloader()
            )
            assert x.shape[1] == 2
            table = other.table([torch.zeros(len(x), len(targets))])
            assert table.columns == ["row", *targets, *truth]


def test_a_later_file_is_read_like_the_first(tmp_path: Path) -> None:
    """Rebuilt by its spec with another path, a table has the columns and classes of the first, whatever is in the file."""
    spec = Table(numbers(), label="kind", ignore=["target", "day"]).spec
    assert spec["init_args"]["path"] == "a dict"
    other = {name: numbers()[name][::-1] for name in ("extra", "c", "b", "a") if name in numbers()}
    path = written(tmp_path / "new.csv", other | {"extra": ["?"] * 40, "kind": ["low"] * 40})
    registry.discover()
    again = registry.build(json.loads(json.dumps(spec | {"init_args": spec["init_args"] | {"path": path}})))
    assert (again.features, again.num_classes) == (["a", "b", "c"], 2)
    again.setup("fit")
    assert set(again.train.label.tolist()) == {1}


def test_a_run_is_told_what_its_data_are(caplog: pytest.LogCaptureFixture) -> None:
    """One line: origin, sizes, split and seed, columns, roles and units."""
    with caplog.at_level("INFO"):
        ready(numbers(), target="target", ignore=["kind", "day"], split=Split(seed=3))
    (line,) = (record.message for record in caplog.records if record.message.startswith("Table"))
    assert line == (
        "Table: a dict: 32 rows train, 4 rows validate, 4 rows test, split at random by seed 3; 3 columns: a, b, c; "
        "target: target; standardised"
    )


# Errors


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"columns": ["aa"]}, "no column 'aa', which columns names. Did you mean 'a'?"),
        ({"target": "targets", "columns": ["a"]}, "no column 'targets', which target names. Did you mean 'target'?"),
        ({"label": "kinds", "columns": ["a"]}, "no column 'kinds', which label names. Did you mean 'kind'?"),
        ({"split": Split(by="days"), "columns": ["a"]}, "no column 'days', which split.by names. Did you mean 'day'?"),
        ({"split": Split(group="kinds"), "columns": ["a"]}, "no column 'kinds', which split.group names"),
        (
            {"split": Split(by="kind"), "columns": ["a"]},
            "must say train, val or test in each row, or hold times or numbers by which rows are ordered; row 1 holds low",
        ),
        ({"split": Split(by="target", group="kind"), "columns": ["a"]}, "too few rows: 40 train, 0 val, 0 test"),
        ({}, "column 'kind' must hold numbers; row 1 holds 'low'. Leave the column out by ignore"),
        ({"ignore": [*"abc", "target", "kind", "day"]}, "no column is left for columns; it has a, b"),
        ({"columns": ["a"], "target": "b", "label": "kind"}, "got target b and label kind"),
        ({"columns": ["a", "b"], "target": "b"}, "column 'b' is named twice; each column has one role"),
        (
            {"columns": ["a"], "read": Reading(duplicates="mean")},
            "does not support read.duplicates: rows of a table may",
        ),
        ({"columns": ["a"], "label": "c"}, "must hold classes or ids, as text or whole numbers; row 1 holds"),
        ({"columns": ["a"], "batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], told: str) -> None:
    """Messages name the option or column, and what to do."""
    columns = numbers()
    columns["kind"] = np.array(["low", *columns["kind"][1:]])
    with pytest.raises(of.OdeflowError) as problem:
        ready(columns, **options)
    assert told in str(problem.value)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"a": np.arange(4)}, "too few rows: 4 train, 0 val, 0 test"),
        ({"a": [1.0]}, "too few rows: 1 train, 0 val, 0 test"),
        (
            {"a": np.arange(40), "b": np.ones(40)},
            "column 'b' is empty or constant in the training rows, so it cannot be standardised. Leave it out by",
        ),
        ({"a": np.full(40, math.inf)}, "column 'a' holds inf in row 1"),
    ],
)
def test_a_table_that_cannot_be_learned_is_refused(columns: dict[str, Any], told: str) -> None:
    """Too few rows, constant columns and infinite numbers are errors that name them."""
    with pytest.raises(of.DataError) as problem:
        ready(columns)
    assert told in str(problem.value)


def test_one_class_is_no_classification() -> None:
    """A column that holds one class only is an error that names it."""
    with pytest.raises(of.DataError, match="column 'k' holds one class only, u"):
        ready({"a": [1, 2], "k": ["u", "u"]}, label="k")


def test_a_class_that_did_not_train_is_refused() -> None:
    """In a later file a class that the model does not know is an error with the row."""
    data = ready(numbers(), label="kind", ignore=["target", "day"])
    later = Table(numbers() | {"kind": ["low"] * 39 + ["middle"]}, label="kind", ignore=["target", "day"])
    later.adopt(data.known)
    with pytest.raises(of.DataError, match="the class 'middle' in row 40, which was not there in training"):
        later.setup("test")


def test_predictions_of_another_shape_are_no_table() -> None:
    """A table of predictions has a column for each target; others are an error with both sizes."""
    data = Table(numbers(), target="target", ignore=["kind", "day"])
    data.setup("predict")
    assert data.table([torch.zeros(40, 1, dtype=torch.bfloat16)])["target"].to_list() == 40 * [0.0]
    with pytest.raises(of.DataError, match=r"shape \(40, 2\) as a table; expected \(rows,\), \(rows, 1 targets\)"):
        data.table([torch.zeros(40, 2)])


def test_a_million_rows_are_split_in_seconds(tmp_path: Path) -> None:
    """The whole of a large CSV is read, split and standardised; parts are tensors, not lists of rows."""
    random = np.random.default_rng(0)
    pl.DataFrame(random.random((200_000, 5))).write_csv(tmp_path / "large.csv")
    data = ready(str(tmp_path / "large.csv"))
    assert data.train.x.shape == (160_000, 5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"val": 0.5, "test": 0.5}, "val and test must be at least 0 and leave a share to train on; got 0.5 and 0.5"),
        ({"val": -0.1}, "val and test must be at least 0"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
    ],
)
def test_a_wrong_share_is_named(options: dict[str, Any], told: str) -> None:
    """A split refuses values out of range."""
    with pytest.raises(of.SettingError, match=told):
        Split(**options)


def test_an_unknown_treatment_is_named() -> None:
    """`Reading` refuses a word that is none of its two."""
    with pytest.raises(of.SettingError, match="missing must be 'refuse' or 'drop'; got 'mean'"):
        Reading(missing="mean")  # pyright: ignore[reportArgumentType]
