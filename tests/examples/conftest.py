"""Fresh Python processes, as a user starts them: what one of them has loaded, the next does not know."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SESSIONS = """
import contextlib, io, json, os, sys, traceback
import lightning.pytorch.cli, matplotlib.figure, sklearn.datasets, torch._dynamo, torchmetrics.classification

def take(line):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            from odeflow.cli.main import main
            status = main(line) if isinstance(line, list) else exec(line, {}) or 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
            status = 1
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}

for request in sys.stdin:
    lines, folder, variables = json.loads(request)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.chdir(folder)
        os.environ.update(variables)
        sys.path[1:1] = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
        with os.fdopen(writing, "w") as pipe:
            json.dump([take(line) for line in lines], pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        print(pipe.read() or "null", flush=True)
    os.waitpid(child, 0)
"""
"""A process that has imported what odeflow is built on, which takes seconds, but not odeflow; it is forked for each
session."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status, and what it wrote."""

    status: int
    out: str
    err: str


def environment(variables: dict[str, str]) -> dict[str, str]:
    """The variables of a process that inherits no plugins."""
    quiet = {"WANDB_MODE": "disabled", "COLUMNS": "250", "OMP_NUM_THREADS": "1"}
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "ODEFLOW_PLUGINS")}
    return inherited | quiet | variables


@dataclass(frozen=True)
class Shell:
    """A folder in which Python processes are started, with variables of their environment."""

    folder: Path
    variables: dict[str, str]
    sessions: subprocess.Popen[str]

    def run(self, *words: object) -> Outcome:
        """Runs `python WORD…`."""
        ended = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=self.folder,
            env=environment(self.variables),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Outcome(ended.returncode, ended.stdout, ended.stderr)

    def session(self, *lines: list[str] | str) -> list[Outcome]:
        """Runs the lines one after the other in one process: odeflow's commands as words, Python code as a str."""
        assert self.sessions.stdin is not None
        assert self.sessions.stdout is not None
        self.sessions.stdin.write(json.dumps([lines, str(self.folder), self.variables]) + "\n")
        self.sessions.stdin.flush()
        outcomes = json.loads(self.sessions.stdout.readline())
        assert outcomes is not None, "the process died"
        return [Outcome(**outcome) for outcome in outcomes]


@pytest.fixture(scope="session")
def sessions() -> Iterator[subprocess.Popen[str]]:
    """The process that is forked for sessions."""
    words = [sys.executable, "-c", SESSIONS]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=environment({}), **pipes) as process:
        yield process
        process.communicate()


@pytest.fixture(scope="session")
def shell(sessions: subprocess.Popen[str]) -> Callable[..., Shell]:
    """Makes a shell: `shell(folder, NAME="value", …)`."""
    return lambda folder, **variables: Shell(folder, {name: str(value) for name, value in variables.items()}, sessions)


@pytest.fixture(scope="session")
def examples() -> Path:
    """The project's examples."""
    return Path(__file__).parents[2] / "examples"
