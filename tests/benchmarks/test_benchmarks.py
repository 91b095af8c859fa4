"""The benchmarks run, and what they compare is right."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from odeflow.training import checkpoint
from odeflow_dynamics import MLP
from odeflow_matching import ScoreMatching
from odeflow_solvers import RK4

FOLDER = Path(__file__).parents[2] / "benchmarks"
CHEAP = ("perceptron", "density")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, ModuleType]]:
    """The scripts, imported as when they are run; truths are kept in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    names = ("problems", "engines", "compare", "gpu", "scaling", "per_sample", "series", "controllers")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {name: __import__(name) for name in names}
    torch.set_num_threads(threads)
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def loose(scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The scripts, with truths good enough for a test."""
    solve = scripts["problems"].Problem._solve_truth
    monkeypatch.setattr(scripts["problems"].Problem, "_solve_truth", lambda self, tolerance: solve(self, 1e-8))
    return scripts


@pytest.mark.parametrize("name", CHEAP)
def test_gradients_agree_with_the_truth(loose: dict[str, ModuleType], name: str) -> None:
    """Every gradient of odeflow is the truth's up to a small multiple of the tolerance."""
    problem = loose["problems"].PROBLEMS[name]()
    truth = problem.truth()
    for mode in loose["engines"].MODES:
        for engine in loose["engines"].engines(mode):
            if engine.name.startswith("odeflow") and (run := engine.prepare(problem)) is not None:
                for value, true in zip(run(lambda: None), truth, strict=False):
                    error = (value.double() - true).norm() / true.norm()
                    assert error < 100 * problem.rtol, engine.name


@pytest.mark.filterwarnings("ignore:rtol = 1e-07")  # of the spiral in float32
def test_replayed_solves_without_a_gpu(scripts: dict[str, ModuleType], capsys: Any) -> None:
    """The script for GPUs runs on a CPU, where all forms agree with torchdiffeq, and says that there is no GPU."""
    scripts["gpu"].main(["--device", "cpu", "--smoke"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| eager", "| graph"))]
    assert len(rows) == 8
    assert all(float(row.split("|")[8]) < 1e-3 for row in rows)
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            scripts["gpu"].main([])
        assert "there is no GPU" in capsys.readouterr().err


def test_table_is_well_formed(loose: dict[str, ModuleType], tmp_path: Path, capsys: Any) -> None:
    """The command prints and writes tables whose lines have as many cells as their header."""
    file = tmp_path / "table.md"
    loose["compare"].main(["--cases", "perceptron", "--modes", "memory", "--rounds", "1", "--markdown", str(file)])
    written = file.read_text()
    assert written.split("\n\n")[2].strip() in capsys.readouterr().out
    tables = [block.splitlines() for block in written.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1
        assert re.fullmatch(r"\| -+ (\| -+: )+\|", lines[1])
    assert "odeflow Checkpointed" in written
    assert "nan" not in written


def test_field_alone_repeats_the_calls(scripts: dict[str, ModuleType]) -> None:
    """The measure of overhead makes as many evaluations and products as the engine did."""
    problem, compare = scripts["problems"].perceptron(), scripts["compare"]
    for mode in ("forward", "backprop", "memory"):
        engine = scripts["engines"].engines(mode)[1]
        calls = compare.count_calls(engine.prepare(problem), problem)
        alone = compare.field_alone(problem, calls, mode)
        again = compare.count_calls(lambda note, alone=alone: [alone()][:0], problem)
        assert again.forward == calls.forward + calls.backward
        assert again.differentiated == calls.differentiated
    assert calls.backward == calls.differentiated > 0


def test_peak_counts_bytes(scripts: dict[str, ModuleType]) -> None:
    """A megabyte that is held for a moment is a peak of a megabyte."""
    assert scripts["compare"].peak_bytes(lambda: torch.zeros(250_000)) == pytest.approx(1e6, rel=0.01)


def test_memory_of_backprop_grows(scripts: dict[str, ModuleType]) -> None:
    """Backprop's peak grows with the number of steps, Checkpointed's much less."""
    scaling = scripts["scaling"]
    problem = scaling._problem(batch=64, dim=8, width=64)
    peaks = {}
    for name, make, _ in scaling.GRADIENTS[:2]:
        peaks[name] = [scaling.memory(problem, make(2048), steps)[1] for steps in (4, 32)]
    assert peaks["Backprop"][1] > 4 * peaks["Backprop"][0]
    assert peaks["Checkpointed"][1] < peaks["Backprop"][1] / 4


def test_steps_together_and_apart(scripts: dict[str, ModuleType]) -> None:
    """Samples that oscillate at other speeds take fewer steps apart; leaving out the finished spares calls with them."""
    script = scripts["per_sample"]
    speeds = torch.tensor([[1.0], [1.0], [8.0]], dtype=torch.float64)
    y0 = torch.cat((speeds, torch.ones(3, 1).double()), dim=1)  # the first entry is the speed, and stays

    def turning(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        phase = t[:, None] * y[:, :1]
        return torch.cat((torch.zeros_like(phase), y[:, :1] * phase.cos()), dim=1)

    case = script.Case("turning", turning, y0, torch.tensor([[0.0, 5.0]]).expand(3, -1).double())
    with torch.no_grad():
        rows = {row[1]: [float(cell) for cell in row[2:]] for row in script.measure(case, 1)}
    assert rows["per sample"][0] < rows["together"][0]
    assert rows["per sample"][3] < rows["per sample, none left out"][3]


def test_series_are_as_many_in_both_batches(scripts: dict[str, ModuleType]) -> None:
    """Regular and irregular series have the same observations; each model has its row, with a ratio."""
    series = scripts["series"]
    regular, irregular = series.batches(6, 5)
    assert regular.y.shape == irregular.y.shape == (6, 5, 2)
    assert [len(batch.t.unique()) for batch in (regular, irregular)] == [5, 30]
    rows = series.rows(6, 5, steps=1)
    assert len(rows) == 8
    assert all(len(row) == len(series.HEADER) and float(row[-1]) > 0 for row in rows)


def test_controllers_have_a_column_each(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Where stability bounds the steps, PI rejects fewer than I; each controller has its evaluations and rejections."""
    controllers = scripts["controllers"]
    monkeypatch.setattr(controllers, "CASES", controllers.CASES[:1])
    monkeypatch.setattr(sys, "argv", ["controllers.py"])
    controllers.main()
    header, _, row = capsys.readouterr().out.splitlines()
    assert header.count("|") == row.count("|")
    plain, damped, filtered = (tuple(map(int, pair)) for pair in re.findall(r"(\d+) / (\d+)", row))
    assert damped[1] < plain[1] < filtered[1]
    assert damped[0] < plain[0] < filtered[0]


def test_draws_of_a_score_are_compared(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to draw has a distance, and other data are nearer to the data than draws of a score without training."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    diffusion = __import__("diffusion")
    task = ScoreMatching(MLP(2, hidden=[8]), RK4(num_steps=2))
    torch.save({"state_dict": task.state_dict(), checkpoint.KEY: {"model": task.spec}}, tmp_path / "score.ckpt")
    few = [way for way in diffusion.ways() if way[3] in (0.0, 3.0)][::4]
    monkeypatch.setattr(diffusion, "ways", lambda: few)
    diffusion.main([str(tmp_path / "score.ckpt"), "--points", "40", "--draws", "2"])
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == len(few) + 1
    *found, floor = (float(row[5].split("±")[0]) for row in rows)
    assert all(distance > floor > 0 for distance in found)
    sys.modules.pop("diffusion")
