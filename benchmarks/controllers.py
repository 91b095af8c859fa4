"""Controllers of the step size: evaluations and rejected steps, as a table for docs/concepts/tolerances.md.

    python benchmarks/controllers.py

Eight seconds of one core.
"""

import argparse
from functools import partial

import torch
from initial_value import D, InitialValueProblem
from stiff_problems import van_der_pol
from torch import Tensor

import odeflow as of
from odeflow.engine.loop.controller import GAINS
from odeflow.plugin.registry import discover, look_up


def pulled(t: Tensor, y: Tensor) -> Tensor:
    """A body that is drawn to cos t at the rate 1000."""
    return -1000 * (y - torch.cos(t))


PULLED = InitialValueProblem("y′ = −1000 (y − cos t)", pulled, torch.zeros(1, dtype=D), 1.0)
OSCILLATOR = InitialValueProblem(
    "Van der Pol, μ = 100", partial(van_der_pol, 100.0), torch.tensor((2, 0), dtype=D), 200.0
)
CASES = ((PULLED, "Tsit5", 1e-4), (OSCILLATOR, "Kvaerno5", 1e-3), (OSCILLATOR, "Rodas4", 1e-3))
"""Problem, solver, and its rtol and atol."""


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    discover()
    print(f"| problem | solver | tolerance | {' | '.join(f'`{name}`' for name in GAINS)} |")
    print("|---|---|---|" + "---|" * len(GAINS))
    for problem, name, tolerance in CASES:
        cells: list[str] = []
        for controller in GAINS:
            solver = look_up("solver", name)(tolerance, tolerance, controller=controller)
            with torch.no_grad():
                stats = of.solve(problem.field, problem.y0[None], [0.0, problem.end], solver=solver).stats
            cells.append(f"{stats.nfe_forward} / {stats.rejected}")
        print(f"| {problem.name} | `{name}` | {tolerance:.0e} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
