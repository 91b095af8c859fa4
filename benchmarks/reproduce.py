"""Runs the commands behind the numbers of `docs/results.md` and prints what is expected beside what is found.

    python benchmarks/reproduce.py --data DATA --max_minutes 3
    python benchmarks/reproduce.py --only anode/crossing density/two_moons

trains and tests by the command line, in a folder of its own, the recipes of all rows that cost at most so many minutes
of one core, or whose name or recipe is given. DATA holds the folders of the data that are not generated; without it
their rows are left out. Rows of trained weights only test them. The exit status is 1 if a number is off by more than
its tolerance, which is wider where rounding, which differs between machines, changes the course of a training. Tables
of one's own data, of parameters and of planar flows have scripts of their own, which `docs/results.md` names.
"""

import argparse
import contextlib
import logging
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from compare import table
from own_data import QUIET, run

HEADER = ("name", "metric of the test", "published", "expected", "found", "seeds", "minutes")


@dataclass(frozen=True)
class Row:
    """A number, and the command that gives it.

    Attributes:
        name: Of the row.
        recipe: The recipe.
        metric: The metric of the test.
        expected: The number as in `docs/results.md`: the mean over the seeds.
        tolerance: The largest deviation from it.
        minutes: Cost of all seeds, in minutes of one core.
        fit: Options of `fit`; None if nothing is trained.
        test: Options of the test.
        data: The folder of the data below DATA; "" if they need none.
        seeds: Of the trainings.
        published: What was published, if anything comparable was.
    """

    name: str
    recipe: str
    metric: str
    expected: str
    tolerance: float
    minutes: float
    fit: str | None = ""
    test: str = ""
    data: str = ""
    seeds: tuple[int, ...] = (0,)
    published: str = ""

    @property
    def value(self) -> float:
        """The expected number."""
        return float(self.expected.replace("−", "-"))


ERROR, FORECAST = "test/error_percent", "test/forecast_mae"
EULER = "--weights --trainer.precision 32-true --model.solver Euler --model.solver.num_steps"
TIGHT = "--model.solver Dopri5 --model.solver.rtol 1e-5 --model.solver.atol 1e-5"
FIVE = "--trainer.max_epochs 5"
ROWS = (
    Row(
        "ODE-Net, its weights", "mnist/ode_net", ERROR, "0.33", 1e-4, 0.3, None, "--weights", "mnist", published="0.42"
    ),
    Row("… one step of Euler", "mnist/ode_net", ERROR, "1.65", 0.015, 0.2, None, f"{EULER} 1", "mnist"),
    Row("… four steps of Euler", "mnist/ode_net", ERROR, "0.38", 0.015, 0.3, None, f"{EULER} 4", "mnist"),
    Row("ResNet, its weights", "mnist/resnet", ERROR, "0.33", 1e-4, 0.5, None, "--weights", "mnist"),
    Row("RK-Net, its weights", "mnist/rk_net", ERROR, "0.43", 1e-4, 0.5, None, "--weights", "mnist"),
    Row("perceptron, its weights", "mnist/mlp", ERROR, "1.04", 1e-4, 0.1, None, "--weights", "mnist"),
    Row("… logistic", "mnist/mlp", "test/accuracy_logistic", "0.8912", 0.003, 0.1, None, "--weights", "mnist"),
    Row("perceptron", "mnist/mlp", ERROR, "1.03", 0.2, 1.5, data="mnist", published="1.60"),
    Row(
        "ResNet, five epochs",
        "mnist/resnet",
        ERROR,
        "0.41",
        0.1,
        25,
        FIVE,
        data="mnist",
        seeds=(0, 1, 2),
        published="0.41",
    ),
    Row(
        "RK-Net, five epochs",
        "mnist/rk_net",
        ERROR,
        "0.56",
        0.1,
        40,
        FIVE,
        data="mnist",
        seeds=(0, 1, 2),
        published="0.47",
    ),
    Row("ODE-Net, five epochs", "mnist/ode_net", ERROR, "0.55", 0.1, 36, FIVE, data="mnist", seeds=(0, 1, 2)),
    Row(
        "… by the adjoint equation",
        "mnist/ode_net",
        ERROR,
        "0.55",
        0.1,
        36,
        f"{FIVE} --model.gradient Adjoint",
        data="mnist",
        seeds=(0, 1, 2),
        published="0.42",
    ),
    Row("U-Net, its weights", "mnist/unet", ERROR, "0.55", 1e-4, 0.3, None, "--weights", "mnist"),
    Row("U-Net", "mnist/unet", ERROR, "0.55", 0.15, 7, data="mnist"),
    Row("Transformer, its weights", "mnist/transformer", ERROR, "0.77", 1e-4, 0.3, None, "--weights", "mnist"),
    Row("Transformer", "mnist/transformer", ERROR, "0.77", 0.2, 13, data="mnist"),
    Row("digits, ODE-Net", "digits/ode_net", ERROR, "2.7", 1.1, 0.5),
    Row("crossing, plain", "anode/crossing_plain", "test/loss", "1.0004", 0.001, 0.4),
    Row("crossing, augmented", "anode/crossing", "test/loss", "6.9e-4", 3e-4, 0.4, published="7e-4"),
    Row("crossing, linear model", "anode/crossing", "test/loss_linear", "0.0104", 5e-5, 0.4),
    Row("spheres, plain", "anode/spheres_plain", "test/loss", "1.4e-3", 4e-3, 0.6),
    Row("spheres, augmented", "anode/spheres", "test/loss", "1.1e-4", 1e-4, 0.5),
    Row("two moons, its weights", "density/two_moons", "test/kl", "0.0135", 1e-4, 0.2, None, "--weights"),
    Row("two moons", "density/two_moons", "test/kl", "0.0135", 0.006, 4),
    Row("moons, planar", "density/planar_moons", "test/kl", "0.0071", 0.005, 2.5),
    Row("circles, planar", "density/planar_circles", "test/kl", "0.0085", 0.005, 4),
    Row("eight Gaussians", "density/eight_gaussians", "test/kl", "0.0022", 0.002, 4),
    Row("POWER", "density/power", "test/loss", "−0.722", 0.02, 60, test=TIGHT, data="power", published="-0.46"),
    Row("pendulum", "trajectory/pendulum", FORECAST, "0.048", 0.005, 0.3, data="schmidt_lipson"),
    Row("pendulum, with a net", "trajectory/pendulum_net", FORECAST, "0.035", 0.01, 0.5, data="schmidt_lipson"),
    Row("hares and lynxes", "trajectory/lotka_volterra", FORECAST, "0.104", 0.01, 0.4),
    Row("… persistence", "trajectory/lotka_volterra", "test/persistence_mae", "1.229", 0.001, 0.4),
    Row("waves, its weights", "latent/periodic", "test/interpolation_mse", "6.9e-4", 3e-5, 0.1, None, "--weights"),
    Row("spirals, its weights", "latent/spirals", "test/rmse", "0.072", 1e-3, 0.1, None, "--weights"),
    Row("… next stretch", "latent/spirals", "test/rmse", "0.195", 3e-3, 0.1, None, "--weights --data.predict beyond"),
    Row(
        "letters, half of the times",
        "cde/characters",
        "test/accuracy",
        "0.991",
        0.012,
        0.4,
        data="character_trajectories",
    ),
    Row("spiral, its matrix", "trajectory/spiral", FORECAST, "0.0013", 5e-4, 0.3),
    Row("spiral, a perceptron", "spiral", FORECAST, "0.039", 0.02, 0.6),
    Row("shooting, linear", "shooting/linear", "test/distance", "6.9e-7", 1e-6, 0.4),
    Row("shooting, bullet", "shooting/bullet", "test/distance", "2.0e-5", 1e-4, 0.1),
    Row("decay, Euler", "decay", FORECAST, "0.0098", 1e-4, 0.1, None),
    Row("long time", "trajectory/long_time", FORECAST, "0.156", 0.05, 0.3),
)
"""In the order of `docs/results.md`."""


def found(row: Row, data: Path | None) -> float:
    """The mean over the seeds of the metric of a row."""
    root = f"--data.root {data / row.data}" if data is not None and row.data else ""
    return statistics.mean(tested(row.recipe, row.fit, row.test, root, seed)[row.metric] for seed in row.seeds)


@cache
def tested(recipe: str, fit: str | None, test: str, root: str, seed: int) -> dict[str, float]:
    """The metrics of a test, which rows share."""
    if fit is None:
        return run(f"test -c {recipe} {test} {root} {QUIET}")
    folder = run(f"fit -c {recipe} {fit} {root} --seed_everything {seed} {QUIET}")["folder"]
    return run(f"test --ckpt_path {folder}/checkpoints/best.ckpt {test} {QUIET}")


def chosen(only: Sequence[str], most: float, data: Path | None) -> list[Row]:
    """The rows of these names or recipes, or all, that are cheap enough and whose data are there."""
    unknown = set(only) - {word for row in ROWS for word in (row.name, row.recipe)}
    if unknown:
        raise SystemExit(f"no row {', '.join(sorted(unknown))}; there are: {', '.join(row.name for row in ROWS)}")
    wanted = [row for row in ROWS if not only or {row.name, row.recipe} & set(only)]
    return [row for row in wanted if row.minutes <= most and (not row.data or data is not None)]


def main(words: Sequence[str] | None = None) -> int:
    """Runs the rows, printing each; then the table, which it also writes. Returns the number of rows that are off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of the data that are not generated")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="names of rows, or recipes")
    parser.add_argument("--max_minutes", type=float, default=float("inf"), help="most that a row may cost")
    parser.add_argument("--folder", type=Path, default=Path("reproduced"), help="where the runs are written")
    parser.add_argument("--list", action="store_true", help="print the rows, and run nothing")
    given = parser.parse_args(words)
    data = given.data and given.data.resolve()
    rows = chosen(given.only, given.max_minutes, data)
    lines, wrong = [], 0
    given.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(given.folder):
        for row in rows:
            began = time.process_time()
            value = float("nan") if given.list else found(row, data)
            off = not given.list and not abs(value - row.value) <= row.tolerance
            wrong += off
            shown = "" if given.list else f"{value:.4g}{' (off)' if off else ''}"
            minutes = row.minutes if given.list else (time.process_time() - began) / 60
            seeds = "" if row.fit is None else ", ".join(map(str, row.seeds))
            expected = f"{row.expected} ± {row.tolerance:g}"
            lines.append([row.name, row.metric, row.published, expected, shown, seeds, f"{minutes:.1f}"])
            if not given.list:
                print(*lines[-1], sep=" | ", flush=True)
        Path("reproduced.md").write_text(table(HEADER, lines) + "\n")
    verdict = f"{len(rows)} rows" if given.list else f"{len(rows) - wrong} of {len(rows)} rows are as expected"
    print(f"\n{table(HEADER, lines)}\n\n{verdict}")
    return wrong


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(min(main(), 1))
