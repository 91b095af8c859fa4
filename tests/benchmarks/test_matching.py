"""The benchmark of matching trains, measures and compares solvers."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with few solvers."""
    monkeypatch.syspath_prepend(FOLDER)
    found = importlib.import_module("matching")
    every = [*found.solvers()]
    few = [row for row in every if row[1] in ("2 steps", "rtol=0.1")]
    assert len(every) == 44
    monkeypatch.setattr(found, "solvers", lambda: iter(few))
    return found


@pytest.mark.parametrize("words", ["--coupling MinibatchOT", "--coupling Conditional --condition class --bfloat16"])
def test_a_training_is_measured(
    script: ModuleType, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each seed has a line with distances and what they are compared to, and weights; the last one is of their means."""
    script.main([*words.split(), "--seeds", "0,1", "--steps", "2", "--points", "40", "--save", str(tmp_path)])
    *lines, means = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    each = [float(line.split()[2]) for line in lines]
    assert float(means.split()[1]) == pytest.approx(sum(each) / 2, abs=1e-4)
    for line in lines:
        name, *rest = line.split()
        found = dict(zip(rest[::2], map(float, rest[1::2]), strict=True))
        assert found["w2_squared_data"] < found["w2_squared_source"]
        assert (tmp_path / f"{name}.ckpt").is_file()


def test_solvers_agree_where_they_are_precise(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each solver, with its evaluations; nearly linear fields are solved alike by all of them."""
    torch.manual_seed(0)
    script.main(["--steps", "1", "--points", "20", "--save", str(tmp_path)])
    capsys.readouterr()
    script.main(["--solvers", str(tmp_path / "Independent_none_0.ckpt"), "--points", "30"])
    rows = [line.split(", ") for line in capsys.readouterr().out.splitlines()]
    assert {row[0] for row in rows} > {"Euler", "RK4", "Dopri5", "Dopri5 per sample"}
    distances = torch.tensor([float(row[3]) for row in rows])
    assert (distances - distances.mean()).abs().max() < 0.05 * distances.mean()
