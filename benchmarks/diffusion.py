"""How a trained score draws: by its probability flow, and by its reverse diffusion with and without Langevin dynamics.

    odeflow fit -c score/two_moons
    python benchmarks/diffusion.py runs/score/two_moons/version_0/checkpoints/best.ckpt

The squared 2-Wasserstein distance between samples and new data, mean and standard deviation of draws with other noise
and other data, beside that of two samples of the data.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from compare import table

import odeflow as of
from matching import distance
from odeflow_data import ToyDensity
from odeflow_matching import ScoreMatching
from odeflow_sde import SRA1, EulerMaruyama
from odeflow_solvers import Dopri5

HEADER = ("by", "solver", "corrector", "evaluations", "W₂²")


def main(words: Sequence[str] | None = None) -> None:
    """Prints a table with a row for each way to draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", default="two_moons", help="name of the density, as of ToyDensity")
    parser.add_argument("--points", type=int, default=3_000)
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args(words)
    task: Any = of.load(options.checkpoint)
    assert isinstance(task, ScoreMatching)
    data = ToyDensity(options.data)
    rows = list[list[str]]()
    for by, name, solver, corrector in ways():
        found = draws_of(task.eval(), data, solver, corrector, options.points, options.draws)
        stats = task.flow.stats
        assert stats is not None
        rows.append([by, name, f"{corrector:g}", f"{stats.nfe_forward}", spread(found)])
    pairs = ((data.draw(options.points, (part, number)) for part in (1, 2)) for number in range(options.draws))
    rows.append(["other data", "", "", "", spread([distance(*pair) for pair in pairs])])
    print(table(HEADER, rows))


def ways() -> Iterator[tuple[str, str, of.Solver, float]]:
    """What is solved, by which solver, and the corrector."""
    yield "probability flow", "Dopri5, 1e-4", Dopri5(1e-4, 1e-4), 0.0
    for steps in (20, 50, 100, 200):
        yield "reverse diffusion", f"EulerMaruyama, {steps} steps", EulerMaruyama(num_steps=steps), 0.0
    for corrector in (0.0, 1.0, 3.0):
        for steps in (50, 100, 200):
            yield "reverse diffusion", f"SRA1, {steps} steps", SRA1(num_steps=steps), corrector


@torch.no_grad()
def draws_of(task: Any, data: ToyDensity, solver: of.Solver, corrector: float, points: int, draws: int) -> list[float]:
    """The distance of each draw."""
    task.flow.solver, task.corrector = solver, corrector
    found = list[float]()
    for number in range(draws):
        torch.manual_seed(number)
        found.append(distance(task.sample(points)["x"], data.draw(points, (2, number))))
    return found


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
