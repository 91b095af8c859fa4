"""DETEST: global errors and evaluations of adaptive solvers beside scipy's, a table for docs/solver_measurements.md.

python benchmarks/detest.py                 # all problems and tolerances; minutes
python benchmarks/detest.py A B2 --tolerances 1e-6 --solvers Dopri8 Dopri8/controller=PI
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from detest_problems import problems
from initial_value import D, InitialValueProblem, states
from torch import Tensor

import odeflow as of
from odeflow.plugin.registry import discover, look_up

SOLVERS = ("Dopri5", "Tsit5", "Dopri8", "Dopri8/error_per=span")
"""What is behind the stroke is an option of the solver."""
SCIPY = ("RK45", "DOP853")
TOLERANCES = (1e-3, 1e-6, 1e-9)
TIMES = torch.arange(21, dtype=D)


@dataclass(frozen=True)
class Outcome:
    """A solve.

    Attributes:
        ratio: Largest error at the times 1, 2, … 20, per tolerance · max(1, |y|).
        nfe: Evaluations of the field.
    """

    ratio: float
    nfe: int


def truth(problem: InitialValueProblem) -> Tensor:
    """(21, d), by scipy's DOP853 at the edge of float64."""
    return states(problem.by_scipy("DOP853", 1e-13, 1e-15, TIMES))


def amplification(problem: InitialValueProblem, reference: Tensor, size: float = 1e-7) -> float:
    """What a perturbation of the start becomes at worst at the times 0, 1, … 20, as a multiple of itself.

    Each component is perturbed by `size` · max(1, |y|), with the worst signs. By differences of true solutions.
    """
    scale, total = reference.abs().clamp_min(1), torch.zeros_like(reference)
    for number, step in enumerate(size * scale[0]):
        start = problem.y0.clone()
        start[number] += step
        total += (truth(replace(problem, y0=start)) - reference).abs() / scale
    return float(total.max()) / size


def outcome(problem: InitialValueProblem, solver: str, tolerance: float, reference: Tensor) -> Outcome:
    """A problem by a solver of odeflow, as in `SOLVERS`, or a method of scipy, rtol and atol being the tolerance.

    The solution at the times 1, 2, … 20 is the solver's dense output.
    """
    name, _, option = solver.partition("/")
    if solver in SCIPY:
        theirs = problem.by_scipy(solver, tolerance, t=TIMES)
        y, nfe = states(theirs), theirs.nfev
    else:
        with torch.no_grad():
            options = dict([option.split("=")]) if option else {}
            options = {key: float(value) if value[0].isdigit() else value for key, value in options.items()}
            chosen = look_up("solver", name)(rtol=tolerance, atol=tolerance, max_steps=200_000, **options)
            solution = of.solve(problem.field, problem.y0, TIMES, solver=chosen)
        y, nfe = solution.y, solution.stats.nfe_forward
    error = (y - reference).abs() / reference.abs().clamp_min(1)
    return Outcome(float(error.max()) / tolerance, nfe)


def table(found: dict[tuple[str, str, float], Outcome], solvers: Sequence[str], tolerances: Sequence[float]) -> str:
    """Markdown: for each class and tolerance, evaluations in sum and the largest error per tolerance."""
    names = sorted({name for name, _, _ in found})
    lines = [
        f"| class | tolerance | {' | '.join(map(_title, solvers))} |",
        f"|---|---|{'---|' * len(solvers)}",
    ]
    for group in sorted({name[0] for name in names}):
        for tolerance in tolerances:
            cells: list[str] = []
            for solver in solvers:
                own = [found[name, solver, tolerance] for name in names if name[0] == group]
                cells.append(f"{sum(one.nfe for one in own):,} / {max(one.ratio for one in own):.3g}")
            lines.append(f"| {group} | {tolerance:.0e} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _title(solver: str) -> str:
    return f"scipy {solver}" if solver in SCIPY else f"`{solver}`"


def worst_table(
    found: dict[tuple[str, str, float], Outcome], solvers: Sequence[str], amplifications: dict[str, float]
) -> str:
    """Markdown: for each problem its amplification, and the largest error per tolerance at any tolerance."""
    lines = [f"| problem | amplification | {' | '.join(map(_title, solvers))} |", f"|---|---|{'---|' * len(solvers)}"]
    for name, factor in amplifications.items():
        worst = [
            max(one.ratio for (of, by, _), one in found.items() if (of, by) == (name, solver)) for solver in solvers
        ]
        lines.append(f"| {name} | {factor:.3g} | {' | '.join(f'{ratio:.3g}' for ratio in worst)} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the tables, and which errors exceed 100 tolerances."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", help="names or classes; by default all")
    parser.add_argument("--tolerances", nargs="+", type=float, default=TOLERANCES)
    parser.add_argument("--solvers", nargs="+", default=[*SOLVERS, *SCIPY])
    options = parser.parse_args()
    discover()
    found: dict[tuple[str, str, float], Outcome] = {}
    amplifications: dict[str, float] = {}
    for problem in problems():
        if options.problems and not any(problem.name.startswith(name) for name in options.problems):
            continue
        reference = truth(problem)
        amplifications[problem.name] = amplification(problem, reference)
        for tolerance in options.tolerances:
            for solver in options.solvers:
                found[problem.name, solver, tolerance] = outcome(problem, solver, tolerance, reference)
    print(table(found, options.solvers, options.tolerances))
    print()
    print(worst_table(found, options.solvers, amplifications))
    for (name, solver, tolerance), one in found.items():
        if one.ratio > 100:
            print(f"above 100 tolerances: {name} {solver} at {tolerance:.0e}: {one.ratio:.3g}")


if __name__ == "__main__":
    main()
