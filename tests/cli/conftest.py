import contextlib
import csv
import io
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from odeflow.cli.main import main

BRIEF = (
    "--trainer.max_epochs 1 --trainer.limit_train_batches 3 --trainer.log_every_n_steps 1 "
    "--trainer.enable_progress_bar false --trainer.enable_model_summary false"
)
SMALL = f"-c digits/ode_net --model.dynamics.channels 4 {BRIEF}"


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def config(self) -> dict[str, Any]:
        """What --print_config printed."""
        return yaml.safe_load(self.out)


def _run(words: str | Sequence[str]) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # which trains a few parameters faster than several that wait for each other
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(shlex.split(words) if isinstance(words, str) else words)
        except SystemExit as exit_:  # how the parser ends, after help too
            status = exit_.code
        finally:
            torch.set_num_threads(threads)
    return Outcome(status, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw_at: Callable[..., None]) -> None:
    """Every test of the command line runs in an empty folder, inherits no settings, and trains without figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ODEFLOW_PLUGINS", raising=False)
    draw_at()


@pytest.fixture(scope="session")
def command() -> Callable[[str | Sequence[str]], Outcome]:
    """Runs the words after `odeflow` in this process."""
    return _run


@pytest.fixture(scope="session")
def done() -> Callable[[str | Sequence[str]], Outcome]:
    """Runs the words after `odeflow`, which must succeed."""

    def run(words: str | Sequence[str]) -> Outcome:
        outcome = _run(words)
        assert outcome.status == 0, outcome.err
        return outcome

    return run


@pytest.fixture(scope="session")
def started() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `WORD…` in processes of their own in a folder; gives what they say, once all have ended."""

    def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    return run


@pytest.fixture(scope="session")
def newest() -> Callable[[Path, str], Path]:
    """The folder of the last evaluation of a run's checkpoint by a command; other tests may have evaluated it, too."""

    def find(run: Path, command: str) -> Path:
        return max((run / command).iterdir(), key=lambda folder: int(folder.name.removeprefix("version_")))

    return find


@pytest.fixture(scope="session")
def refused() -> Callable[[str | Sequence[str]], str]:
    """Runs the words after `odeflow`, which must be refused in a few lines; gives the message."""

    def run(words: str | Sequence[str]) -> str:
        outcome = _run(words)
        assert outcome.status == 2, outcome
        assert re.match(r"(note: .*\n)*error: ", outcome.err), outcome.err
        assert len(outcome.err.splitlines()) <= 4, outcome.err
        assert "Traceback" not in outcome.err
        return outcome.err

    return run


@pytest.fixture(scope="session")
def metrics() -> Callable[[Path], dict[str, list[float]]]:
    """The columns of a run's metrics.csv, without the empty cells."""

    def read(run: Path) -> dict[str, list[float]]:
        with (run / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}

    return read


@pytest.fixture(scope="session")
def by_name() -> Callable[[Any], Any]:
    """A configuration with each class by its bare name: the module from which it is imported may be a longer one."""

    def named(node: Any) -> Any:
        if isinstance(node, list):
            return [named(item) for item in node]
        if not isinstance(node, dict):
            return node
        return {key: item.rpartition(".")[2] if key == "class_path" else named(item) for key, item in node.items()}

    return named


@pytest.fixture(scope="session")
def spiral_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of the recipe spiral; evaluations of its checkpoints are added to it."""
    return _trained(tmp_path_factory.mktemp("spiral"), f"fit -c spiral {BRIEF}", "spiral")


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of the recipe digits/ode_net with four channels; evaluations of its checkpoints are added to it."""
    return _trained(tmp_path_factory.mktemp("digits"), f"fit {SMALL}", "digits/ode_net")


def _trained(folder: Path, words: str, label: str) -> Path:
    with contextlib.chdir(folder):
        outcome = _run(words)
    assert outcome.status == 0, outcome.err
    return folder / "runs" / label / "version_0"


@pytest.fixture(scope="session")
def brief() -> str:
    """Options that make a run short and quiet."""
    return BRIEF


@pytest.fixture(scope="session")
def small() -> str:
    """A run that takes a second: digits/ode_net with four channels."""
    return SMALL
