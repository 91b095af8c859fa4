"""What the recipes on one's own data reach on small public data, beside baselines on the same targets.

    python benchmarks/own_data.py --root DATA --markdown table.md

writes the data as CSV files, runs each recipe through the command line with three seeds, and tests the best checkpoint
by validation. DATA holds `timeseries_small/timeseries_small.npz` and
`character_trajectories/character_trajectories.npz`; tables are those of scikit-learn. A seed is that of the run and,
for tables, of the split. `--part val` validates instead: settings are chosen by that part, also by `--options`, and the
test part is for the final numbers alone.
"""

import argparse
import contextlib
import io
import json
import logging
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from compare import table
from sklearn import datasets
from sklearn.mixture import GaussianMixture

from odeflow.cli.main import main as odeflow
from odeflow_data import Table
from odeflow_data.split import Split

HEADER = ("data", "recipe", "metric", "odeflow", "baselines")
QUIET = (
    "--trainer.enable_progress_bar false --trainer.enable_model_summary false --trainer.num_sanity_val_steps 0 "
    "--trainer.logger.class_path CSVLogger"
)
SHARES = 0.2
"""Share of a table's rows that validates, and that tests."""


@dataclass(frozen=True)
class Case:
    """A recipe on a data set.

    Attributes:
        name: The data set.
        recipe: The recipe.
        metric: The metric without its stage.
        baselines: The ends of its baselines' names.
        options: Options of `fit` beside the path.
        extra: Other baselines, by name, of (the file, the seed, the part).
    """

    name: str
    recipe: str
    metric: str
    baselines: Sequence[str]
    options: str
    extra: Mapping[str, Callable[[Path, int, str], float]]


def mixture(path: Path, seed: int, part: str) -> float:
    """−log p in nats, per unit of the file, of scikit-learn's Gaussian mixture.

    Its number of components, 1 to 8, kind of covariance and ridge are chosen by validation.
    """
    data = Table(str(path), split=Split(val=SHARES, test=SHARES, seed=seed))
    data.setup("test")
    val, test = (torch.cat(list(loader)).double().numpy() for loader in (data.val_dataloader(), data.test_dataloader()))
    train, tested = data.training_part().double().numpy(), val if part == "val" else test
    fitted = [
        GaussianMixture(count, covariance_type=kind, reg_covar=ridge, n_init=3, random_state=seed).fit(train)
        for count in range(1, 9)
        for kind in ("full", "diag", "tied")
        for ridge in (1e-5, 1e-3, 1e-2, 1e-1)
    ]
    best = max(fitted, key=lambda each: each.score(val))
    assert data.units is not None
    return data.units.log_volume(train.shape[1]) - float(best.score(tested))


FORECASTS = ("seasonal", "persistence", "mean")
CASES = (
    Case("sunspots", "own/forecast", "mse", FORECASTS, "--data.time time --data.period 11", {}),
    Case(
        "lynx (log)",
        "own/forecast",
        "mse",
        FORECASTS,
        "--data.time time --data.period 10 --data.history 20 --data.horizon 5 --data.split.val 0.15",
        {},
    ),
    Case(
        "CO2",
        "own/forecast",
        "mse",
        FORECASTS,
        "--data.time time --data.period 365.25 --data.history 60 --data.horizon 26 --data.stride 4 "
        "--model.instance.level last --model.instance.rescale true --trainer.max_epochs 20 "
        "--trainer.check_val_every_n_epoch 4",
        {},
    ),
    Case(
        "characters",
        "own/series",
        "mse",
        ("persistence", "linear", "mean"),
        "--data.series id --data.time time --data.batch_size 50 --trainer.max_epochs 300 "
        "--trainer.check_val_every_n_epoch 20 --model.dynamics.dim 16 --model.dynamics.hidden [100] "
        "--model.encoder.width 64",
        {},
    ),
    *(
        Case(name, "own/density", "nll", ("gaussian", "base"), "--data.ignore null", {"mixture": mixture})
        for name in ("iris", "wine", "diabetes", "breast cancer")
    ),
    *(
        Case(name, "own/classification", "accuracy", ("logistic", "majority"), "--data.label class", {})
        for name in ("iris", "wine", "breast cancer")
    ),
    Case("diabetes", "own/regression", "loss", ("linear", "mean"), "--data.target target", {}),
)


def written(case: Case, root: Path | None, folder: Path) -> Path | None:
    """The data of a case as a CSV file; None without its source."""
    path = folder / f"{case.recipe.replace('/', '_')}_{case.name.replace(' ', '_')}.csv"
    if case.recipe in ("own/forecast", "own/series"):
        if root is None:
            return None
        frame = characters(root) if case.name == "characters" else long_series(root, case.name)
    else:
        frame = rows(case)
    frame.write_csv(path)
    return path


def long_series(root: Path, name: str) -> pl.DataFrame:
    """A series of the archive; what was not observed is an empty cell."""
    source = np.load(root / "timeseries_small" / "timeseries_small.npz")
    if name == "CO2":
        return pl.DataFrame({"time": source["co2_date"], "co2": source["co2"]}).with_columns(pl.all().fill_nan(None))
    if name == "lynx (log)":
        return pl.DataFrame({"time": source["lynx_year"], "lynx": np.log10(source["lynx"])})
    return pl.DataFrame({"time": source["sunspots_year"], "sunspots": source["sunspots"]})


def characters(root: Path) -> pl.DataFrame:
    """Every fourth of the labelled pen trajectories, at every fifth time."""
    source = np.load(root / "character_trajectories" / "character_trajectories.npz")
    offsets = source["labelled_offsets"]
    parts: list[pl.DataFrame] = []
    for number in range(0, len(offsets) - 1, 4):
        x = source["labelled_x"][offsets[number] : offsets[number + 1] : 5]
        columns = {"id": [number] * len(x), "time": range(len(x))}
        parts.append(pl.DataFrame(columns | dict(zip(("dx", "dy", "force"), x.T.astype(np.float64), strict=True))))
    return pl.concat(parts)


def rows(case: Case) -> pl.DataFrame:
    """A table of scikit-learn; for a density only the columns that have one."""
    loaders: dict[str, Any] = {
        "iris": datasets.load_iris,
        "wine": datasets.load_wine,
        "diabetes": partial(datasets.load_diabetes, scaled=False),
        "breast cancer": datasets.load_breast_cancer,
    }
    source = loaders[case.name]()
    names = [name.replace(" ", "_") for name in source.feature_names]
    frame = pl.DataFrame(dict(zip(names, source.data.T, strict=True)))
    if case.recipe == "own/density":
        return frame.drop("sex", strict=False)  # of two values
    role = "target" if case.recipe == "own/regression" else "class"
    return frame.with_columns(pl.Series(role, source.target))


def run(words: str) -> dict[str, float]:
    """Runs a command, and returns its metrics."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = odeflow(words.split())
    if status:
        raise SystemExit(f"odeflow {words}\n{err.getvalue()}")
    newest = max(Path("runs").rglob("run.json"), key=lambda file: file.stat().st_mtime_ns)
    return json.loads(newest.read_text())["metrics"] | {"folder": str(newest.parent)}


def measured(case: Case, path: Path, seed: int, part: str, options: str) -> dict[str, float]:
    """The metric of the model and of the baselines, by name."""
    split = f"--data.split.seed {seed}"
    if case.recipe not in ("own/forecast", "own/series"):
        split += f" --data.split.val {SHARES} --data.split.test {SHARES}"
    options = f"{case.options} {split} {options} --seed_everything {seed} {QUIET}"
    fitted = run(f"fit -c {case.recipe} --data.path {path} {options}")
    command = "test" if part == "test" else "validate"
    found = run(f"{command} --ckpt_path {fitted['folder']}/checkpoints/best.ckpt {QUIET}")
    names = {"odeflow": "", **{name: f"_{name}" for name in case.baselines}}
    result = {name: found[f"{part}/{case.metric}{end}"] for name, end in names.items()}
    return result | {name: baseline(path, seed, part) for name, baseline in case.extra.items()}


def told(values: Sequence[float]) -> str:
    """The mean, and with several seeds the standard deviation."""
    mean, digits = statistics.mean(values), 3 if abs(statistics.mean(values)) < 1 else 2
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 and max(values) > min(values) else ""
    return f"{mean:.{digits}f}{spread}"


def main(words: Sequence[str] | None = None) -> None:
    """Runs the cases, and prints and writes the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="the folder of the series; without it only tables are run")
    parser.add_argument("--folder", type=Path, default=Path("own_data"), help="where CSV files and runs are written")
    parser.add_argument("--cases", nargs="*", help="recipes or data sets; by default all")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--part", choices=("val", "test"), default="test")
    parser.add_argument("--options", default="", help="of `fit`, in all cases")
    parser.add_argument("--markdown", type=Path, help="a file for the table")
    given = parser.parse_args(words)
    root = given.root and given.root.resolve()
    markdown = given.markdown and given.markdown.resolve()
    given.folder.mkdir(parents=True, exist_ok=True)
    lines: list[list[str]] = []
    with contextlib.chdir(given.folder):
        for case in CASES:
            if given.cases and not {case.name, case.recipe} & set(given.cases):
                continue
            path = written(case, root, Path())
            if path is None:
                continue
            found = [measured(case, path, seed, given.part, given.options) for seed in given.seeds]
            model, *others = ({name: told([each[name] for each in found])} for name in found[0])
            beside = ", ".join(f"{name} {value}" for each in others for name, value in each.items())
            lines.append([case.name, case.recipe, f"{given.part}/{case.metric}", model["odeflow"], beside])
            print(*lines[-1], sep=" | ", flush=True)
            if markdown:
                markdown.write_text(table(HEADER, lines) + "\n")
    print(table(HEADER, lines))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
