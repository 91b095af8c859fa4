"""Stiff problems by implicit methods beside scipy's Radau: steps and errors, as a table.

    python benchmarks/stiff.py

The error is the largest of a component at the end, relative to the largest component there, against Radau at 1e-13.
Two minutes of one core.
"""

import argparse

import torch
from initial_value import InitialValueProblem, states
from stiff_problems import problems

import odeflow as of
from odeflow.plugin.registry import discover, look_up

TIGHTEST = 1e-13


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--solvers", nargs="+", default=["Rodas4", "Kvaerno5"])
    parser.add_argument("--tolerances", nargs="+", type=float, default=[1e-6, 1e-8, 1e-10])
    options = parser.parse_args()
    discover()
    names = " | ".join(f"`{name}`" for name in options.solvers)
    print(f"| problem | tolerance | {names} | scipy Radau |")
    print("|---|---|" + "---|" * (len(options.solvers) + 1))
    for problem in problems():
        truth, _ = by_radau(problem, TIGHTEST)
        for rtol in options.tolerances:
            found = [by_ours(problem, name, rtol) for name in options.solvers] + [by_radau(problem, rtol)]
            cells = (f"{steps:,} / {(end - truth).abs().max() / truth.abs().max():.1e}" for end, steps in found)
            print(f"| {problem.name} | {rtol:.0e} | {' | '.join(cells)} |", flush=True)


def by_ours(problem: InitialValueProblem, name: str, rtol: float) -> tuple[torch.Tensor, int]:
    """The state at the end, and the number of steps, by a solver of this name."""
    solver = look_up("solver", name)(rtol, rtol * problem.part)
    with torch.no_grad():
        solution = of.solve(problem.field, problem.y0[None], [0.0, problem.end], solver=solver)
    return solution.y[-1, 0], solution.stats.accepted


def by_radau(problem: InitialValueProblem, rtol: float) -> tuple[torch.Tensor, int]:
    """The same by scipy."""
    solution = problem.by_scipy("Radau", rtol)
    return states(solution)[-1], len(solution.t) - 1


if __name__ == "__main__":
    main()
