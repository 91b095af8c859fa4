"""Fresh Python processes, as a user starts them: what one of them has loaded, the next does not know."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

SESSION = """
import contextlib, io, json, sys, traceback
from odeflow.cli.main import main

def take(line):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(line) if isinstance(line, list) else exec(line, {}) or 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
            status = 1
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}

print(json.dumps([take(line) for line in json.loads(sys.argv[1])]))
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status, and what it wrote."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Shell:
    """A folder in which Python processes are started, with variables of their environment."""

    folder: Path
    variables: dict[str, str]

    def run(self, *words: object) -> Outcome:
        """Runs `python WORD…`."""
        quiet = {"WANDB_MODE": "disabled", "COLUMNS": "250", "OMP_NUM_THREADS": "1"}
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "ODEFLOW_PLUGINS")}
        ended = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=self.folder,
            env=inherited | quiet | self.variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Outcome(ended.returncode, ended.stdout, ended.stderr)

    def session(self, *lines: list[str] | str) -> list[Outcome]:
        """Runs the lines one after the other in one process: odeflow's commands as words, Python code as a str."""
        ended = self.run("-c", SESSION, json.dumps(lines))
        assert ended.status == 0, ended.err
        return [Outcome(**outcome) for outcome in json.loads(ended.out)]


@pytest.fixture(scope="session")
def shell() -> Callable[..., Shell]:
    """Makes a shell: `shell(folder, NAME="value", …)`."""
    return lambda folder, **variables: Shell(folder, {name: str(value) for name, value in variables.items()})


@pytest.fixture(scope="session")
def examples() -> Path:
    """The project's examples."""
    return Path(__file__).parents[2] / "examples"
