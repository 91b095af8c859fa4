"""`odeflow runs list | compare | best`: the records of runs. Does not import torch, so that it starts fast."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from odeflow.config import record
from odeflow.config.record import RunRecord
from odeflow.errors import OdeflowError

Rows = list[dict[str, str]]
"""A table: the text of each cell by the name of its column, which is the same in all rows."""
WIDTH = 60
"""Length of options in a table; the other formats have all of them."""


def runs(words: list[str]) -> int:
    """Runs the command.

    Raises:
        OdeflowError: There is no such folder or run.
    """
    parser = argparse.ArgumentParser("odeflow runs", description="The runs in a folder, from the record of each.")
    actions = parser.add_subparsers(dest="action", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--folder", type=Path, default=Path("runs"), help="where to look; by default runs")
    shared.add_argument("--format", choices=("table", "csv", "json"), default="table", help="of the output")
    listed = actions.add_parser("list", parents=[shared], help="all runs, the latest last")
    listed.add_argument("recipe", nargs="?", help="only those of this recipe")
    listed.add_argument("--command", help="only those of this command, such as fit")
    compared = actions.add_parser("compare", parents=[shared], help="options and metrics in which runs differ")
    compared.add_argument("run", nargs="+", type=Path, help="runs, two or more, such as spiral/version_0")
    chosen = actions.add_parser("best", parents=[shared], help="the run of a recipe with the best value")
    chosen.add_argument("recipe")
    given = parser.parse_args(words)
    if given.action == "list":
        found = [each for each in _found(given.folder, given.recipe) if given.command in (None, each.command)]
        print_rows([summary(each) for each in found], given.format)
    elif given.action == "compare":
        print_rows(differences([at(run, given.folder) for run in given.run]), given.format)
    else:
        best = record.best(_found(given.folder, given.recipe))
        if best is None:
            raise OdeflowError(
                f"no run of {given.recipe} in {given.folder} has a best value: none has finished an epoch with a "
                "ModelCheckpoint that monitors a metric"
            )
        print_rows([summary(best) | {"checkpoint": str(best.place / (best.best_path or ""))}], given.format)
    return 0


def _found(folder: Path, recipe: str | None) -> list[RunRecord]:
    """The runs in a folder, of one recipe or all.

    Raises:
        OdeflowError: There are none.
    """
    found = list(record.found(folder))
    able = [each for each in found if recipe in (None, each.recipe)]
    if not able:
        recipes = sorted({each.recipe for each in found})
        there = f"It has runs of {', '.join(recipes)}" if recipes else "Name another folder by --folder"
        raise OdeflowError(f"{folder} has no runs{f' of {recipe}' if recipe else ''}. {there}")
    return able


def at(folder: Path, runs: Path = Path("runs")) -> RunRecord:
    """The record of the run in a folder, which may also be given from the folder of all runs on.

    Raises:
        OdeflowError: There is none.
    """
    found = RunRecord.read(folder) or RunRecord.read(runs / folder)
    if found is None:
        raise OdeflowError(
            f"{folder} is not the folder of a run: it has no {record.NAME}. odeflow runs list names them"
        )
    return found


def summary(run: RunRecord) -> dict[str, str]:
    """A run in a row."""
    nfe = next((value for name, value in run.metrics.items() if name.endswith(("/nfe", "nfe/forward_epoch"))), None)
    return {
        "run": str(run.place),
        "recipe": run.recipe,
        "command": run.command,
        "changed": _options(run.changes),
        "result": _result(run),
        "NFE": "" if nfe is None else f"{nfe:.4g}",
        "epochs": str(run.epochs) if run.command == "fit" else "",
        "time": duration(run.seconds),
        "device": f"{run.processes} × {run.device}" if run.processes > 1 else run.device,
        "started": run.started.replace("T", " ").removesuffix("+00:00"),
        "status": run.status,
    }


def _result(run: RunRecord) -> str:
    """The best value of a training run, the main metrics of an evaluation."""
    if run.best is not None:
        return f"{run.monitor} {run.best:.4g}"
    names = [name for name in run.metrics if name.startswith(("test/", "val/")) and not name.endswith("/nfe")]
    return ", ".join(f"{name} {number(run.metrics[name])}" for name in names[:3]) if run.command != "fit" else ""


def differences(runs: Sequence[RunRecord]) -> Rows:
    """A row for each option, version and metric in which the runs differ, a column for each run."""
    if len(runs) < 2:
        raise OdeflowError("odeflow runs compare needs two runs or more")
    facts = [
        {"recipe": run.recipe, "command": run.command, "status": run.status}
        | {f"--{name}".replace("---c", "-c"): value for name, value in run.changes.items()}
        | run.versions
        | {"commit": run.commit, "machine": run.machine, "device": run.device, "processes": str(run.processes)}
        | {"epochs": str(run.epochs), "steps": str(run.steps), "time": duration(run.seconds)}
        | ({} if run.best is None else {f"best {run.monitor}": number(run.best)})
        | {_metric(name, run): number(value) for name, value in run.metrics.items()}
        for run in runs
    ]
    names = dict.fromkeys(name for each in facts for name in each)
    return [
        {"": name} | {str(run.place): each.get(name, "") for run, each in zip(runs, facts, strict=True)}
        for name in names
        if len({each.get(name, "") for each in facts}) > 1
    ]


def _metric(name: str, run: RunRecord) -> str:
    """The name of a metric, whose value is the last one if there are several."""
    return f"last {name}" if run.command == "fit" else name


def _shortened(text: str) -> str:
    """The text, cut at a length that leaves room for the other columns of a table."""
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def _options(changes: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" if value else name for name, value in changes.items())


def number(value: float | None) -> str:
    """A metric's value in five digits."""
    return "not finite" if value is None else f"{value:.5g}"


def duration(seconds: float) -> str:
    """A duration as 12 s, 3 min 05 s or 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def print_rows(rows: Rows, form: str = "table") -> None:
    """Prints rows as "table", "csv" or "json"."""
    if form == "json":
        print(json.dumps(rows, indent=2))  # noqa: T201
        return
    names = list(rows[0]) if rows else []
    if form == "csv":
        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    shown = [name for name in names if any(row[name] for row in rows)]
    table = Table(*shown, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_shortened(row[name]) if name == "changed" else row[name] for name in shown))
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)  # a pipe has no width
    console.print(table, markup=False)
