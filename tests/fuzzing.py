"""What fuzzing asks of the command line: whatever it is given, it runs it or refuses it in a few lines."""

import contextlib
import io
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import odeflow as of
from odeflow.cli.main import main
from odeflow.config.record import NAME as RECORD

SECONDS, BYTES = 60, 6 << 30
"""How long a case may take, and how much memory more than the process has."""
LINES = 6


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """No more memory and time than a case may take; warnings are no errors here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    present = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    def late(*_: object) -> None:
        raise TimeoutError(f"the case took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (present + BYTES, hard))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def complaint(words: list[str], refused: bool = False) -> str | None:
    """What is wrong with how the command line takes the words; None if it runs them or refuses them as it should.

    Args:
        words: The words after `odeflow`.
        refused: Whether they must be refused.
    """
    err, before = io.StringIO(), files()
    with bounded(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
        except KeyboardInterrupt:
            raise
        except BaseException as problem:  # every kind of them is a fault here, also the panics of libraries in Rust
            return f"{type(problem).__name__}: {problem}"
    told = err.getvalue()
    if status == 0:
        return "it was not refused" if refused else None
    if left := files() - before:
        return f"it was refused, and left {', '.join(map(str, left))}: {told[:500]}"
    lines = told[told.find("error: ") :].splitlines()
    fine = status == 2 and "error: " in told and lines[0] != "error: " and len(lines) <= LINES
    return None if fine and "Traceback" not in told else f"status {status}: {told[:2000]}"


def files() -> set[Path]:
    """The files in the working directory and below it, without records of runs: a run that fails leaves one that says so."""
    return {
        path for path in Path().rglob("*") if path.is_file() and path.name != RECORD and "__pycache__" not in path.parts
    }


def check(cases: range, complain: Callable[[int], str | None]) -> None:
    """Runs the cases and tells of all that are not as they should be."""
    wrong = {case: told for case in cases if (told := complain(case)) is not None}
    listed = "\n".join(f"case {case}: {told[:1000]}" for case, told in wrong.items())
    assert not wrong, f"{len(wrong)} of {len(cases)}\n{listed}"


def unloadable(file: Path) -> str | None:
    """What else than an error of ours `odeflow.load` raises for a file."""
    with bounded():
        try:
            of.load(file)
        except of.OdeflowError:
            return None
        except Exception as problem:  # every other kind is a fault here
            return f"load: {type(problem).__name__}: {problem}"
    return None
