"""The table of expected numbers is that of `docs/results.md`, and its cheapest rows are found again."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from odeflow.config import recipes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The script, imported as when it is run, in an empty folder."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    monkeypatch.chdir(tmp_path)
    yield __import__("reproduce")
    for name in ("reproduce", "own_data", "compare", "problems", "engines"):
        sys.modules.pop(name, None)


def test_expected_numbers_are_documented(script: Any) -> None:
    """Every number is written in the results as in the table, its recipe is there, and no two rows share a name."""
    text = (ROOT / "docs/results.md").read_text()
    for row in script.ROWS:
        assert row.expected in text, row.name
        assert recipes.find(row.recipe).is_file()
        assert row.tolerance > 0
        if row.fit is None and "--weights" in row.test:
            assert recipes.weights(row.recipe).is_file()
    assert len({row.name for row in script.ROWS}) == len(script.ROWS)


def test_known_results_of_recipes_are_documented() -> None:
    """What a recipe quotes from the results is written there."""
    text = (ROOT / "docs/results.md").read_text()
    for file in sorted((ROOT / "recipes").glob("*/*.yaml")):
        for known in recipes.known_results(file.read_text()):
            assert not known.source.endswith("docs/results.md") or f"{known.value:g}" in text, (file, known)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:lightning.*", "ignore:.*treespec, LeafSpec:FutureWarning")
def test_cheap_rows_are_as_expected(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What takes seconds is run: each row prints expected and found, and the status says that none is off."""
    rows = [row.name for row in script.ROWS if row.minutes <= 0.1 and not row.data]
    assert rows
    assert script.main(["--max_minutes", "0.1"]) == 0
    printed = capsys.readouterr().out
    assert f"{len(rows)} of {len(rows)} rows are as expected" in printed
    assert Path("reproduced/reproduced.md").read_text().count("\n") == len(rows) + 2


@pytest.mark.filterwarnings("ignore:.*:UserWarning:lightning.*", "ignore:.*treespec, LeafSpec:FutureWarning")
def test_a_number_that_is_off_is_told(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row beyond its tolerance is marked and counted; an unknown name is an error with those that there are."""
    monkeypatch.setattr(script, "ROWS", (script.Row("wrong", "decay", "test/loss", "7", 0.1, 0.1, fit=None),))
    assert script.main(["--only", "wrong"]) == 1
    assert "(off)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no row right; there are: wrong"):
        script.main(["--only", "right"])
