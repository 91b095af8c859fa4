"""`odeflow report RUN…`: runs as one HTML page, which contains all that it shows."""

import argparse
import base64
import csv
import html
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from odeflow import __version__
from odeflow.cli.runs import at, differences, duration, number, summary
from odeflow.config import recipes, record
from odeflow.config.record import RunRecord
from odeflow.errors import OdeflowError, RecipeError

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
"""The colours of Okabe & Ito (2008), which all readers can tell apart. A run has the same in every chart."""
MEDIA = {".png": "image/png", ".svg": "image/svg+xml", ".gif": "image/gif", ".mp4": "video/mp4"}
"""Files in the folder of figures that are shown, and their types."""
MOMENTS = re.compile(r"(_\d_(start|midway|end)|_test)$")
"""What a figure's name adds to that of the other moments."""
TITLES = {
    "loss": "Loss",
    "nfe": "Evaluations of the vector field",
    "steps": "Solver steps",
    "step_size": "Step size, in the field's time",
    "lr": "Learning rate",
}
"""Titles of charts; of others, the name of the metric."""

LOGARITHMIC = ("Loss", TITLES["nfe"], TITLES["lr"])
"""Charts whose axis is logarithmic where values differ much."""


@dataclass(frozen=True)
class Curve:
    """A metric over training.

    Attributes:
        name: The metric, as "val/loss".
        x: Epochs or optimizer steps.
        y: Its values.
    """

    name: str
    x: list[float] = field(default_factory=list[float])
    y: list[float] = field(default_factory=list[float])


def report(words: list[str]) -> int:
    """Runs the command.

    Raises:
        OdeflowError: A folder is not that of a run, or the packages of the extra `report` are missing.
    """
    parser = argparse.ArgumentParser(
        "odeflow report", description="Shows runs on one HTML page, which needs no server."
    )
    parser.add_argument("run", nargs="+", type=Path, help="folders of runs; several are compared")
    where = "the page; by default report.html in the run's folder, or in the working directory for several runs"
    parser.add_argument("--output", type=Path, metavar="FILE", help=where)
    given = parser.parse_args(words)
    runs = [at(folder) for folder in dict.fromkeys(given.run)]
    output: Path = given.output or (runs[0].place if len(runs) == 1 else Path()) / "report.html"
    text = page(runs)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    Console(soft_wrap=True).print(f"written to {output}, {len(text) / 1e6:.1f} MB", highlight=False, markup=False)
    return 0


def page(runs: Sequence[RunRecord]) -> str:
    """The HTML page of runs.

    Raises:
        OdeflowError: The packages of the extra `report` are missing.
    """
    try:
        from jinja2 import Environment, PackageLoader
        from plotly.offline import get_plotlyjs
    except ImportError as problem:
        raise OdeflowError(
            f"odeflow report needs the package {problem.name}: pip install 'odeflow[report]'"
        ) from problem
    environment = Environment(loader=PackageLoader("odeflow.cli", "."), autoescape=True, trim_blocks=True)
    charts = _charts(runs)
    return environment.get_template("report.html").render(
        runs=[_shown(*each) for each in zip(runs, _labels(runs), _colors(runs), strict=True)],
        summaries=_rows(runs),
        differences=differences(runs) if len(runs) > 1 else [],
        charts=json.dumps(charts).replace("<", "\\u003c"),  # no text in it ends the script
        count=len(charts),
        plotly=get_plotlyjs(),
        version=__version__,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _colors(runs: Sequence[RunRecord]) -> list[str]:
    return [COLORS[number % len(COLORS)] for number in range(len(runs))]


def _rows(runs: Iterable[RunRecord]) -> list[dict[str, str]]:
    """A row for each run, without columns that are empty in all, or shown below."""
    rows = [{name: value for name, value in summary(run).items() if name not in ("recipe", "started")} for run in runs]
    return [{name: row[name] for name in row if any(each[name] for each in rows)} for row in rows]


def _shown(run: RunRecord, label: str, color: str) -> dict[str, Any]:
    """What the page says of a run."""
    evaluations = [each for each in record.found(run.place) if each.place != run.place]
    configuration = run.place / "config.yaml"
    return {
        "label": label,
        "color": color,
        "record": run,
        "command": _command(run),
        "duration": duration(run.seconds),
        "results": _results([run, *evaluations], _known(run)),
        "evaluations": _rows(evaluations),
        "figures": _figures([run, *evaluations]),
        "configuration": configuration.read_text(encoding="utf-8", errors="replace") if configuration.is_file() else "",
    }


def _labels(runs: Sequence[RunRecord]) -> list[str]:
    """The name of each run: its recipe and the name of its folder, or its path where names are the same."""
    names = [f"{run.recipe}/{run.place.resolve().name}" for run in runs]
    if len(set(names)) == len(names):
        return names
    places = [run.place.resolve() for run in runs]
    common = os.path.commonpath(places)
    return [str(place.relative_to(common)) for place in places]


def _command(run: RunRecord) -> str:
    """The command line, as far as the record tells."""
    configs = "".join(f" -c {name}" for name in (run.recipe, *run.overlays))
    checkpoint = {} if run.ckpt_path is None else {"ckpt_path": run.ckpt_path}
    return f"odeflow {run.command}{configs}" + "".join(
        f" --{name} {value}".rstrip() for name, value in {**checkpoint, **run.options}.items()
    )


# Results


def _known(run: RunRecord) -> list[recipes.Known]:
    """The results that its recipe knows; none if the recipe is not found."""
    try:
        return recipes.known_results(recipes.text(recipes.find(run.recipe)))
    except RecipeError:
        return []


def _results(runs: Iterable[RunRecord], known: Sequence[recipes.Known]) -> list[dict[str, str]]:
    """A row for each metric of validation and test: its value, those of simple models, and those that are known.

    A simple model's metric has the name of the model at its end: `val/mse_linear` is beside `val/mse`.
    """
    values: dict[str, float | None] = {}
    for run in runs:
        values |= {name: value for name, value in run.metrics.items() if name.startswith(("val/", "test/"))}
        if run.best is not None and run.monitor is not None:
            values[f"{run.monitor}, best"] = run.best
    rows: dict[str, dict[str, str]] = {}
    for name in sorted(values, key=lambda name: (name.startswith("val/"), name)):  # the test first
        base = _beside(name, values)
        if base != name:
            rows.setdefault(base, {})[name.removeprefix(f"{base}_")] = number(values[name])
        else:
            rows[name] = {"this run": number(values[name]), **rows.get(name, {})}
    for each in known:
        rows.setdefault(each.metric, {"this run": ""})[each.source] = number(each.value)
    columns = dict.fromkeys(["this run", *(column for row in rows.values() for column in row)])
    return [{"metric": name} | {column: row.get(column, "") for column in columns} for name, row in rows.items()]


def _beside(name: str, names: Iterable[str]) -> str:
    """The metric beside which a simple model's stands, as val/mse of val/mse_linear; otherwise the name itself."""
    return min((other for other in names if name.startswith(f"{other}_")), key=len, default=name)


# Charts


def _charts(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The charts as plain data of plotly.js, each with the curves of all runs."""
    charts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    found = [_curves(run.place / "metrics.csv") for run in runs]
    several = any(len(curve.x) > 1 for each in found for curve in each["epoch"])
    axis = "epoch" if several else "step"  # a run of one epoch has its curves over steps
    for each, label, color in zip(found, _labels(runs), _colors(runs), strict=True):
        curves = each[axis]
        kinds, names = defaultdict[str, int](int), [curve.name for curve in curves]
        for curve in curves:
            title = _chart(_beside(curve.name, names))
            name = curve.name.removesuffix("_epoch")
            style = ("solid", "dash", "dot", "dashdot", "longdash")[kinds[title] % 5]
            shade = color if len(runs) > 1 else COLORS[kinds[title] % len(COLORS)]
            kinds[title] += 1
            charts[title].append(
                {
                    "x": curve.x,
                    "y": curve.y,
                    "name": html.escape(name if len(runs) == 1 else f"{label}: {name}"),
                    "mode": "lines+markers" if len(curve.x) < 40 else "lines",
                    "line": {"color": shade, "dash": style if len(runs) > 1 else "solid", "width": 2},
                    "marker": {"size": 5},
                }
            )
    order = sorted(charts, key=lambda title: [*TITLES.values()].index(title) if title in TITLES.values() else 0.5)
    return [
        {
            "title": html.escape(title),
            "x": axis,
            "few": max(x for curve in charts[title] for x in curve["x"]) < 8,
            "log": title in LOGARITHMIC and _spread([y for curve in charts[title] for y in curve["y"]]) > 20,
            "curves": charts[title],
        }
        for title in order
    ]


def _spread(values: Sequence[float]) -> float:
    """The ratio of the largest and the smallest value; 1 if one is not positive."""
    return max(values) / min(values) if min(values) > 0 else 1.0


def _chart(name: str) -> str:
    """The title of the chart in which a metric is drawn."""
    group, _, rest = name.rpartition("/")
    if rest == "nfe" or group == "nfe":
        return TITLES["nfe"]
    if group in TITLES:
        return TITLES[group]
    if name.startswith("lr-"):
        return TITLES["lr"]
    shown = re.sub(r"_(epoch|step)$", "", rest)
    return TITLES["loss"] if shown.partition("_")[0] == "loss" else shown


def _curves(file: Path) -> dict[str, list[Curve]]:
    """The metrics of a run over "epoch", those with one value in each, and over "step".

    Raises:
        OdeflowError: The file is damaged.
    """
    if not file.is_file():
        return {"epoch": [], "step": []}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        names = [name for name in (rows[0] if rows else {}) if name not in ("epoch", "step")]
        over = {axis: [_curve(rows, axis, name) for name in names] for axis in ("epoch", "step")}
    except (csv.Error, ValueError, AttributeError, TypeError) as problem:  # of rows of other lengths, too
        raise OdeflowError(
            f"{file} is damaged: {problem}. Remove it, and the report has no curves of this run"
        ) from problem
    return {
        "epoch": [each for each in over["epoch"] if each.x and len(each.x) == len(set(each.x))],
        "step": [each for each in over["step"] if each.x and not each.name.endswith("_epoch")],
    }


def _curve(rows: list[dict[str, str]], axis: str, name: str) -> Curve:
    curve = Curve(name)
    for row in rows:
        if row.get(name) and row.get(axis) and row[name] not in ("nan", "inf", "-inf"):
            curve.x.append(float(row[axis]))
            curve.y.append(float(row[name]))
    return curve


# Pictures


def _figures(runs: Iterable[RunRecord]) -> list[dict[str, Any]]:
    """Groups of pictures: those of one name, at several moments.

    Raises:
        OdeflowError: A picture is damaged.
    """
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    broad: set[str] = set()
    for run in runs:
        for file in sorted((run.place / "figures").glob("*")):
            kind = MEDIA.get(file.suffix)
            if kind is None or file.is_symlink() or not file.is_file():  # a link may lead to a file of another kind
                continue
            moment = MOMENTS.search(file.stem)
            caption = moment[0].lstrip("_1234567890") if moment else ""
            content = base64.b64encode(file.read_bytes()).decode()
            name = MOMENTS.sub("", file.stem).replace("_", " ")
            if file.suffix == ".png":
                try:
                    with Image.open(file, formats=["PNG"]) as picture:
                        broad |= {name} if picture.width > 1.8 * picture.height else set()
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
                    raise OdeflowError(f"{file} is no picture: {problem}. Remove it") from problem
            groups[name].append(
                {"caption": caption, "kind": kind.partition("/")[0], "uri": f"data:{kind};base64,{content}"}
            )
    return [{"name": name, "pictures": found, "broad": name in broad} for name, found in groups.items()]
