"""The benchmark of one's own data measures a recipe and its baselines on the same rows."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SHORT = "--trainer.max_epochs 1 --trainer.limit_train_batches 1"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The script, imported as when it is run, in an empty folder."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    monkeypatch.chdir(tmp_path)
    yield __import__("own_data")
    for name in ("own_data", "compare", "problems", "engines"):
        sys.modules.pop(name, None)


def test_a_table_has_a_line_for_each_case(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model and each baseline have a mean over seeds; without the folder of the series these are left out."""
    script.main(
        ["--cases", "own/regression", "sunspots", "--seeds", "0", "1", "--options", SHORT, "--markdown", "t.md"]
    )
    (line,) = [line for line in (tmp_path / "t.md").read_text().splitlines() if "own/regression" in line]
    name, recipe, metric, model, baselines = (cell.strip() for cell in line.strip("|").split("|"))
    assert (name, recipe, metric) == ("diabetes", "own/regression", "test/loss")
    assert float(model.split(" ± ")[0]) > float(baselines.removeprefix("linear ").split(" ± ")[0])
    assert ", mean " in baselines
    assert line in capsys.readouterr().out


def test_the_mixture_is_in_the_units_of_the_file(script: Any, tmp_path: Path) -> None:
    """−log p of a column in another unit is higher by log of its scale."""
    (case,) = [case for case in script.CASES if (case.name, case.recipe) == ("iris", "own/density")]
    path = script.written(case, None, tmp_path)
    frame = pl.read_csv(path)
    frame.with_columns(pl.col(frame.columns[0]) * 10).write_csv(tmp_path / "scaled.csv")
    found = [script.mixture(each, 0, "val") for each in (path, tmp_path / "scaled.csv")]
    assert found[1] - found[0] == pytest.approx(math.log(10), abs=1e-4)


def test_columns_of_densities_have_many_values(script: Any) -> None:
    """A column of two values has no density, and is left out."""
    for case in script.CASES:
        if case.recipe == "own/density":
            assert all(column.n_unique() > 10 for column in script.rows(case))
