"""`odeflow grid`: trains a recipe with every combination of some options, one run after the other."""

import itertools
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from odeflow.cli.runs import Rows, print_rows, summary
from odeflow.config import record
from odeflow.config.record import RunRecord
from odeflow.config.request import Request
from odeflow.errors import OdeflowError

HELP = """\
usage: odeflow grid RECIPE --OPTION VALUE,VALUE … [OPTION VALUE …]

  odeflow grid spiral --model.solver.rtol 1e-3,1e-5 --seed_everything 0,1,2

trains the recipe with every combination of the values, six runs here, one after the other, and ends with a table of
them; several seeds are summarised by mean and standard deviation. Commas inside brackets or quotes do not separate
values. A run that fails does not stop the others. All options of odeflow fit are accepted.
"""
SEED = "seed_everything"
SHOWN = 15
"""Number of last lines of a failed run that are shown."""


def grid(words: list[str]) -> int:
    """Runs the command.

    Returns:
        The exit status: 0 if all runs finished, otherwise 1.

    Raises:
        OdeflowError: There is no recipe, or no option has several values.
    """
    if not words or {"-h", "--help"} & set(words):
        print(HELP, end="")  # noqa: T201
        return 0
    request = Request.of(words)
    recipes = [*(word for word in request.words if not word.startswith("-")), *request.configs]
    if not recipes:
        raise OdeflowError("odeflow grid needs a recipe: odeflow grid spiral --seed_everything 0,1,2")
    values = {name: list(parts(value)) if value else [""] for name, value in request.options}
    varied = [name for name, several in values.items() if len(several) > 1]
    if not varied:
        raise OdeflowError("no option has several values, as --seed_everything 0,1,2 has; for one run use odeflow fit")
    shared = [word for recipe in recipes for word in ("-c", recipe)]
    shared += [word for name in request.plugins for word in ("--plugins", name)]
    combinations = list(itertools.product(*values.values()))
    done: list[RunRecord] = []
    for number, combination in enumerate(combinations, 1):
        options = dict(zip(values, combination, strict=True))
        given = " ".join(f"--{name} {options[name]}" for name in varied)
        print(f"{number}/{len(combinations)}: {given}", flush=True)  # noqa: T201
        finished = _fit([*shared, *(f"--{name}={value}" if value else f"--{name}" for name, value in options.items())])
        done += [finished] if finished else []
    if done:
        rows = [{name: run.options.get(name, "") for name in varied} | summary(run) for run in done]
        print_rows([{name: text for name, text in row.items() if name not in ("changed", "command")} for row in rows])
    if SEED in varied and len(done) > 1:
        print_rows(_over_seeds(done, [name for name in varied if name != SEED]))
    return 0 if len(done) == len(combinations) else 1


def parts(text: str) -> Iterator[str]:
    """The values between the commas that are not inside brackets or quotes."""
    depth, quote, begin = 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in ")}]":
            depth -= 1
        elif letter == "," and depth == 0:
            yield text[begin:place].strip()
            begin = place + 1
    yield text[begin:].strip()


def _fit(words: list[str]) -> RunRecord | None:
    """The record of a run in a process of its own; None if it failed, after the end of its output was printed."""
    before = {each.folder for each in record.found(Path())}
    here = {"", os.getcwd()} & set(sys.path)  # otherwise -m would look for modules in the working directory first
    command = [sys.executable, *([] if here else ["-P"]), "-m", "odeflow", "fit", *words]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ran.returncode:
        print("\n".join(ran.stdout.splitlines()[-SHOWN:]), flush=True)  # noqa: T201
        return None
    return next((each for each in record.found(Path()) if each.folder not in before), None)


def _over_seeds(runs: list[RunRecord], names: list[str]) -> Rows:
    """The best value of each setting: its mean and standard deviation over seeds."""
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for run in runs:
        if run.best is not None:
            groups[tuple(run.options.get(name, "") for name in names)].append(run.best)
    return [
        dict(zip(names, setting, strict=True))
        | {"seeds": str(len(values)), f"mean of {runs[0].monitor}": f"{statistics.fmean(values):.4g}"}
        | {"standard deviation": f"{statistics.stdev(values):.2g}" if len(values) > 1 else ""}
        for setting, values in groups.items()
    ]
