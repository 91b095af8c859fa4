"""Work and precision: the error at the end against evaluations of the field, for every solver on three problems.

    python benchmarks/work_precision.py docs/work_precision.png

Also prints the observed orders of all solvers, as a table for docs/solvers.md.
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from detest import truth
from detest_problems import END, Problem, problems
from matplotlib.axes import Axes
from torch import Tensor

import odeflow as of
from odeflow.registry import discover, plugins
from odeflow.testing import observed_order

TITLES = {"B5": "B5: rigid body", "D2": "D2: two bodies, e = 0.3", "E2": "E2: Van der Pol, μ = 1"}
TOLERANCES = [10.0**-power for power in range(2, 13)]
STEPS = [40 * 2**power for power in range(8)]
MOST_EVALUATIONS = 20_000
FIRST_ORDER_TOLERANCE = 1e-6
"""No tighter for methods of low order, which would take very many steps."""


def curve(problem: Problem, cls: type[of.Solver], reference: Tensor) -> tuple[list[int], list[float]]:
    """(evaluations, largest error at the end) at each tolerance or number of steps."""
    adaptive = issubclass(cls, of.AdaptiveRungeKutta)
    nfe, errors = list[int](), list[float]()
    for setting in TOLERANCES if adaptive else STEPS:
        if adaptive and cls.order < 4 and setting < FIRST_ORDER_TOLERANCE:
            continue
        solver = cls(rtol=setting, atol=setting, max_steps=MOST_EVALUATIONS) if adaptive else cls(num_steps=setting)
        try:
            with torch.no_grad():
                solution = of.solve(problem.field, problem.y0, [0.0, END], solver=solver)
        except of.SolveError:
            continue
        error = float((solution.y[-1] - reference[-1]).abs().max())
        if solution.stats.nfe_forward <= MOST_EVALUATIONS and error < 10:
            nfe.append(solution.stats.nfe_forward)
            errors.append(max(error, 1e-15))
    return nfe, errors


def draw(axes: Axes, problem: Problem, solvers: dict[str, type[of.Solver]]) -> None:
    """One problem's curves."""
    reference = truth(problem)
    colours = mpl.colormaps["tab20"]
    for number, (name, cls) in enumerate(solvers.items()):
        adaptive = issubclass(cls, of.AdaptiveRungeKutta)
        nfe, errors = curve(problem, cls, reference)
        marker, style = ("o", "-") if adaptive else ("", "--")
        axes.loglog(nfe, errors, style, marker=marker, markersize=3, linewidth=1.2, color=colours(number), label=name)
    axes.set_title(TITLES[problem.name], fontsize=10)
    axes.set_xlabel("evaluations of the field")
    axes.grid(alpha=0.3)


def orders(solvers: dict[str, type[of.Solver]]) -> str:
    """Markdown: the order that each solver claims, and those that are observed at the end and inside the steps."""
    lines = ["| solver | order | observed at the end | observed inside the steps |", "|---|---|---|---|"]
    for name, cls in solvers.items():
        end, inside = observed_order(cls)
        lines.append(f"| {name} | {cls.order} | {end:.2f} | {inside:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Draws the picture, prints the orders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    discover()
    solvers = {
        name: cls
        for name, cls in plugins("solver").items()
        if issubclass(cls, (of.RungeKutta, of.AdaptiveRungeKutta)) and cls.__module__.startswith("odeflow_solvers.")
    }
    figure, rows = plt.subplots(1, 3, figsize=(15, 5.2), sharey=True, layout="constrained")
    chosen = [problem for problem in problems() if problem.name in TITLES]
    for axes, problem in zip(rows, chosen, strict=True):
        draw(axes, problem, solvers)
    rows[0].set_ylabel("error at the end")
    rows[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, title="— adaptive, -- equal steps")
    figure.savefig(options.picture, dpi=120)
    print(orders(solvers))


if __name__ == "__main__":
    main()
