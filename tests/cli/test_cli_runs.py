"""The record of each run, `odeflow runs` and `odeflow grid`."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from odeflow.cli.grid import parts
from odeflow.cli.runs import at, differences, print_rows, summary
from odeflow.config.holding import abandoned
from odeflow.config.record import RunRecord
from odeflow.training.callbacks import RunRecorder

QUIET = "--trainer.enable_progress_bar false --trainer.enable_model_summary false"
FIRST = Path("runs/digits/ode_net/version_0")


def record(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits_run, done, newest) -> Path:
    """A folder of two runs of digits/ode_net, the second with a worse value and another solver, and a test of the first."""
    folder = tmp_path_factory.mktemp("several") / "runs"
    first, second = (folder / "digits/ode_net" / name for name in ("version_0", "version_1"))
    shutil.copytree(digits_run, first, ignore=shutil.ignore_patterns("test", "validate", "predict"))
    done(f"test --ckpt_path {first}/checkpoints/last.ckpt {QUIET}")
    second.mkdir()
    changed = record(first)
    changed["options"]["model.solver"] = "RK4"
    changed |= {"started": "2100-01-01T00:00:00+00:00", "best": 0.5 * changed["best"], "seconds": 3725.0}
    (second / "run.json").write_text(json.dumps(changed))
    return folder


def test_a_run_leaves_its_record(digits_run, metrics):
    """Command, recipe, options as typed, versions, device, duration, the best value and the last metrics."""
    found = record(digits_run)
    assert (found["command"], found["recipe"], found["status"]) == ("fit", "digits/ode_net", "finished")
    assert found["options"]["model.dynamics.channels"] == "4"
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["odeflow"] == version("odeflow")
    assert (found["device"], found["processes"], found["epochs"], found["steps"]) == ("cpu", 1, 1, 3)
    assert found["seconds"] > 0
    noted = metrics(digits_run)
    assert found["monitor"] == "val/accuracy"
    assert found["best"] == pytest.approx(max(noted["val/accuracy"]))
    assert found["metrics"]["val/loss"] == pytest.approx(noted["val/loss"][-1])
    assert (digits_run / found["best_path"]).is_file()


def test_a_checkpoint_holds_the_record(digits_run):
    """A checkpoint that was copied elsewhere still says which run it is from."""
    stored = torch.load(digits_run / "checkpoints/last.ckpt", weights_only=True)["run"]
    assert (stored["recipe"], stored["steps"]) == ("digits/ode_net", 3)
    assert stored["started"] == record(digits_run)["started"]


def test_a_test_lies_beside_its_run(runs, metrics):
    """A test of a checkpoint is a folder of its run, and is of the run's recipe."""
    tested = runs / "digits/ode_net/version_0/test/version_0"
    found = record(tested)
    assert (found["command"], found["recipe"], found["monitor"]) == ("test", "digits/ode_net", None)
    assert found["metrics"]["test/loss"] == pytest.approx(metrics(tested)["test/loss"][0])
    assert found["ckpt_path"].endswith("version_0/checkpoints/last.ckpt")


def test_a_run_says_where_its_files_are(done, small, caplog):
    """The last line names the folder, its files and the best value."""
    done(f"fit {small}")
    last = caplog.messages[-1]
    assert last.startswith("runs/digits/ode_net/version_0: checkpoints/best.ckpt, checkpoints/last.ckpt, metrics.csv")
    assert "best val/accuracy 0." in last


def test_a_failed_run_says_so(refused, small):
    """A run that ends by an error is marked as failed."""
    refused(f"fit {small} --optimizer.lr 1e30")
    assert record(Path("runs/digits/ode_net/version_0"))["status"] == "failed"


def test_a_killed_run_is_told(digits_run, tmp_path):
    """A run of this machine is running as long as its process lives; of others nothing is known."""
    code = "import sys, time; from pathlib import Path; from odeflow.config.holding import Hold\n"
    code += "hold = Hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    run = tmp_path / "run"
    with subprocess.Popen((sys.executable, "-c", code, run), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        running = record(digits_run) | {"status": "running"}
        (run / "run.json").write_text(json.dumps(running))
        assert RunRecord.read(run).status == "running"
        process.kill()
    assert RunRecord.read(run).status == "killed"
    (run / "run.json").write_text(json.dumps(running | {"host": "another"}))
    assert RunRecord.read(run).status == "running"


def test_a_run_holds_its_folder(done, small, monkeypatch):
    """While it trains it is not abandoned; afterwards it is."""
    seen = []
    write = RunRecorder._write
    monkeypatch.setattr(RunRecorder, "_write", lambda *given: (write(*given), seen.append(abandoned(FIRST))))
    done(f"fit {small}")
    assert seen[0] is False
    assert abandoned(FIRST)


def test_the_list_tells_runs_apart(done, runs):
    """A row for each run and evaluation, in the order of time, with what was changed and what came of it."""
    rows = list(csv.DictReader(io.StringIO(done(f"runs list --folder {runs} --format csv").out)))
    assert [(row["command"], row["recipe"]) for row in rows] == [
        ("fit", "digits/ode_net"),
        ("test", "digits/ode_net"),
        ("fit", "digits/ode_net"),
    ]
    assert "model.solver=RK4" in rows[2]["changed"]
    assert rows[2]["time"] == "1 h 02 min"
    assert rows[1]["result"].startswith("test/")
    only = json.loads(done(f"runs list digits/ode_net --command test --folder {runs} --format json").out)
    assert [row["run"] for row in only] == [rows[1]["run"]]
    assert rows[1]["run"] in done(f"runs list --folder {runs}").out


def test_a_table_has_room_for_long_options(capsys):
    """They are cut in a table, and whole in the other formats."""
    run = RunRecord("fit", "spiral", options={f"option_{number}": "0.123456" for number in range(9)})
    text = summary(run)["changed"]
    assert text.endswith("option_8=0.123456")
    print_rows([summary(run)])
    assert f"{text[:59]}… " in capsys.readouterr().out
    print_rows([summary(run)], "csv")
    assert text in capsys.readouterr().out


def test_compared_runs_show_only_what_differs(done, runs):
    """The solver and the best value differ, the recipe and the seed do not."""
    folders = [runs / "digits/ode_net" / name for name in ("version_0", "version_1")]
    out = done(f"runs compare {folders[0]} {folders[1]} --format csv").out
    within = [folder.relative_to(folders[0].parents[1]) for folder in folders[:2]]
    assert done(f"runs compare {within[0]} {within[1]} --folder {folders[0].parents[1]} --format csv").out == out
    rows = {row[""]: [row[str(folder)] for folder in folders] for row in csv.DictReader(io.StringIO(out))}
    assert rows["--model.solver"] == ["", "RK4"]
    assert float(rows["best val/accuracy"][0]) == pytest.approx(2 * float(rows["best val/accuracy"][1]), rel=1e-3)
    assert not {"recipe", "--model.dynamics.channels"} & set(rows)
    one = at(folders[0])
    others = [replace(one, metrics={"val/loss": value}) for value in (0.5, 0.25)]
    assert [row[""] for row in differences(others)] == ["last val/loss"]


def test_the_best_run_has_the_best_value(done, runs):
    """Of an accuracy the largest is the best; the row names its checkpoint."""
    (row,) = json.loads(done(f"runs best digits/ode_net --folder {runs} --format json").out)
    assert row["run"].endswith("version_0")
    assert Path(row["checkpoint"]).is_file()


def test_unknown_runs_are_refused(refused, runs):
    """A folder without runs, a recipe that was never run and a folder that is no run are named."""
    assert "nowhere has no runs" in refused("runs list --folder nowhere")
    assert "It has runs of digits/ode_net" in refused(f"runs best spiral --folder {runs}")
    assert "is not the folder of a run: it has no run.json" in refused(f"runs compare {runs} {runs}")
    one = runs / "digits/ode_net/version_0"
    assert "needs two runs or more" in refused(f"runs compare {one}")


def test_a_damaged_record_is_passed_over(done, runs, tmp_path):
    """A record that was cut off does not hide the others."""
    shutil.copytree(runs, tmp_path / "copy")
    (tmp_path / "copy/digits/ode_net/version_1/run.json").write_text('{"command": "fit"')
    assert len(json.loads(done("runs list --folder copy --format json").out)) == 2


def test_values_are_separated_outside_of_brackets():
    """A list or a quoted text with commas is one value."""
    assert list(parts("1e-3,1e-5")) == ["1e-3", "1e-5"]
    assert list(parts("[64,64],[32]")) == ["[64,64]", "[32]"]
    assert list(parts("{a: 1, b: 2}")) == ["{a: 1, b: 2}"]
    assert list(parts("'a,b',c")) == ["'a,b'", "c"]


def test_a_grid_trains_every_combination(command, done, monkeypatch):
    """Two seeds, one of which cannot be: the other one finishes, and the exit status is 1."""
    run = subprocess.run

    def here(words, **options):
        """Runs the words in this process, which is faster; a command other than odeflow as it is."""
        if "odeflow" not in words:
            return run(words, **options)
        outcome = command(words[words.index("odeflow") + 1 :])
        return subprocess.CompletedProcess(words, outcome.status, outcome.out + outcome.err)

    monkeypatch.setattr(subprocess, "run", here)
    options = "--model.dynamics.hidden [4] --data.observations 20 --data.steps 10 --trainer.max_epochs 1"
    options += " --trainer.limit_train_batches 2 --trainer.log_every_n_steps 1"
    outcome = command(f"grid spiral {options} --seed_everything 1,-1")
    assert outcome.status == 1
    assert "2/2: --seed_everything -1" in outcome.out
    assert "error:" in outcome.out
    (row,) = json.loads(done("runs list spiral --format json").out)
    assert "seed_everything=1" in row["changed"]
    assert row["run"] in outcome.out


def test_a_grid_needs_a_recipe_and_values(refused):
    """Without them the message shows a command that has both."""
    assert "odeflow grid needs a recipe" in refused("grid --seed_everything 0,1")
    assert "no option has several values" in refused("grid spiral --seed_everything 0")


def test_seeds_are_summarised(done, monkeypatch):
    """The last table has mean and standard deviation over the seeds of each setting."""

    def fitted(words: list[str]) -> RunRecord:
        options = dict(word.removeprefix("--").split("=") for word in words if "=" in word)
        best = float(options["seed_everything"]) + 1e4 * float(options["model.solver.rtol"])
        return RunRecord("fit", "spiral", options=options, monitor="val/loss", mode="min", best=best)

    monkeypatch.setattr("odeflow.cli.grid._fit", fitted)
    out = done("grid spiral --model.solver.rtol 1e-3,1e-2 --seed_everything 0,1,2").out
    assert "mean of val/loss" in out
    assert re.search(r"1e-3\W+3\W+11\W+1\b", out)
    assert re.search(r"1e-2\W+3\W+101\W+1\b", out)
