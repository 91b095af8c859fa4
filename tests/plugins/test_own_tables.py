"""Laws of all data of one's own: the columns that options name exist, and a share of 0 is no part."""

from typing import Any

import numpy as np
import pytest

import odeflow as of
from odeflow.plugin.registry import build
from odeflow_data import Images, SeriesTable, Split, Table, Trajectories, Window
from odeflow_data.own_data import OwnData

COUNT = 120
TABLE: dict[str, Any] = {
    "row": np.arange(COUNT),
    "t": np.tile(np.arange(4.0), COUNT // 4),
    "a": np.random.default_rng(0).normal(size=COUNT),
    "b": np.random.default_rng(1).normal(size=COUNT),
    "kind": np.repeat(["u", "v"], COUNT // 2),
    "id": np.arange(COUNT) // 4,
}
MAKE: dict[str, tuple[type[OwnData], dict[str, Any]]] = {
    "table": (Table, {"ignore": ["kind"]}),
    "series": (SeriesTable, {"time": "t", "series": "id", "ignore": ["kind"]}),
    "wide": (SeriesTable, {"time": "row", "ignore": ["kind"], "split": Split(0.25, 0.25)}),
    "window": (Window, {"time": "row", "history": 4, "horizon": 2, "ignore": ["kind"]}),
    "trajectories": (Trajectories, {"time": "t", "series": "id", "ignore": ["kind"]}),
    "images": (Images, {}),
}
IMAGES = {"images": np.random.default_rng(0).integers(0, 256, (40, 4, 4)).astype(np.uint8)}
LISTS = ("columns", "target", "condition", "covariates", "static", "states", "ignore")
OPTIONS = {
    "table": ("columns", "target", "label", "condition", "ignore", "by", "group"),
    "series": ("time", "series", "columns", "label", "covariates", "static", "ignore", "by", "group"),
    "wide": ("time", "columns", "ignore"),
    "window": ("time", "series", "columns", "ignore", "by", "group"),
    "trajectories": ("time", "series", "states", "covariates", "doses", "ignore", "by", "group"),
}


def made(name: str, source: Any = None, **options: Any) -> OwnData:
    cls, own = MAKE[name]
    whole = IMAGES if name == "images" else TABLE
    return cls(whole if source is None else source, **(own | options))  # pyright: ignore[reportCallIssue]


def test_classes_that_differ_in_case_are_told() -> None:
    with pytest.warns(UserWarning, match="classes of column 'kind' differ by their case only: Yes, yes"):
        Table({"a": [1, 2, 3], "kind": ["yes", "Yes", "no"]}, label="kind")


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, each in OPTIONS.items() for option in each])
def test_columns_that_options_name_exist(name: str, option: str) -> None:
    """A column that the file lacks is an error with the nearest one and all that there are, whichever option names it."""
    wrong: Any = ["kindd"] if option in LISTS else {"a": "kindd"} if option == "doses" else "kindd"
    options = {"split": Split(**{option: "kindd"})} if option in ("by", "group") else {option: wrong}
    with pytest.raises(of.DataError) as problem:
        made(name, **options).setup("fit")
    named = f"split.{option}" if option in ("by", "group") else option
    assert f"has no column 'kindd', which {named}" in str(problem.value)
    assert "Did you mean 'kind'? It has row, t, a, b, kind, id" in str(problem.value)


@pytest.mark.parametrize("name", OPTIONS)
def test_later_files_may_lack_what_is_ignored(name: str) -> None:
    """A trained model reads a file without the ignored column."""
    data = made(name)
    data.setup("fit")
    later = {column: values for column, values in TABLE.items() if column != "kind"}
    again = build({**data.spec, "init_args": data.spec["init_args"] | {"path": later}})
    assert isinstance(again, type(data))
    again.adopt(data.known)
    again.setup("predict")
    assert again.features == data.features


@pytest.mark.parametrize("name", MAKE)
def test_a_share_of_0_is_no_part(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without a share all rows train, validation repeats them, and a test says that there is nothing to test."""
    data = made(name, split=Split(val=0, test=0))
    with caplog.at_level("INFO"):
        data.setup("fit")
    assert ("validat" in caplog.text) == ("validation repeats the training" in caplog.text)
    assert "split" not in caplog.text
    train, val = (sum(map(size, loader)) for loader in (data.train_dataloader(), data.val_dataloader()))
    assert train == val
    data.setup("test")
    with pytest.raises(of.DataError, match=r"nothing to test\. Set a share or a file by --data\.split\.test"):
        data.test_dataloader()


@pytest.mark.parametrize("name", ["table", "series"])
def test_classes_of_validation_and_test_are_in_training(name: str) -> None:
    """A class that no training row has could not be learned: the message names it, and where it is."""
    kind = np.array(["u", "v"] * (COUNT // 8)).repeat(4).astype(object)
    kind[-8:] = "z"
    part = np.array(["train"] * 80 + ["val"] * 20 + ["test"] * 20)
    source = TABLE | {"kind": kind.tolist(), "part": part}
    data = made(name, source, ignore=None, label="kind", split=Split(by="part"))
    told = r"class 'z' of column 'kind' is in no training row, but in test\. Leave its rows out, or divide the file"
    with pytest.raises(of.DataError, match=told):
        data.setup("fit")


@pytest.mark.parametrize("name", OPTIONS)
def test_empty_tables_are_refused(name: str) -> None:
    """A table without rows is an error with its columns, with a label, too."""
    empty = {column: values[:0] for column, values in TABLE.items()}
    labels = {"label": "kind", "ignore": None} if name in ("table", "series") else {}
    with pytest.raises(of.DataError, match="has no rows, only the columns row, t, a, b, kind, id"):
        made(name, empty, **labels).setup("fit")


@pytest.mark.parametrize("name", ["series", "window", "trajectories"])
def test_rows_are_sorted_with_a_word(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Rows in any order are sorted by time; the summary says so, and only then."""
    order = np.random.default_rng(0).permutation(COUNT)
    for source, word in ((TABLE, False), ({column: values[order] for column, values in TABLE.items()}, True)):
        caplog.clear()
        with caplog.at_level("INFO"):
            made(name, source).setup("fit")
        assert ("rows sorted by time" in caplog.text) == word


def size(batch: Any) -> int:
    return len(batch if hasattr(batch, "shape") else batch[0])
