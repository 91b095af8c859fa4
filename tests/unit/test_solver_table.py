"""Laws of the tables of solvers in the docs: they say of every solver what is true of it."""

from pathlib import Path

import pytest
import torch

import odeflow as of
from odeflow.plugin.registry import look_up, plugins

DOCS = Path(__file__).parents[2] / "docs"
BUILT_IN = {name: cls for name, cls in plugins("solver").items() if cls.__module__.startswith("odeflow_solvers.")}
EXPLICIT = [name for name, cls in BUILT_IN.items() if issubclass(cls, of.RungeKutta)]


def rows() -> dict[str, list[str]]:
    """The cells of each solver's row after its name."""
    lines = (DOCS / "solvers.md").read_text().splitlines()
    cells = [line.strip("| ").split("|") for line in lines if line.startswith("| `")]
    return {name.strip(" `"): [cell.strip() for cell in others] for name, *others in cells}


def evaluations_a_step(name: str) -> float:
    """What one step more costs, measured."""
    cls, h = look_up("solver", name), 2.0**-4
    nfe: list[int] = []
    for steps in (3, 4):
        stats = of.solve(lambda t, y: -t * y, torch.ones(1), [0.0, steps * h], solver=cls(step_size=h), params=()).stats
        assert (stats.accepted, stats.rejected) == (steps, 0)
        nfe.append(stats.nfe_forward)
    return nfe[1] - nfe[0]


def test_every_solver_is_listed() -> None:
    """The table has a row for each solver that comes with odeflow, and no other."""
    assert rows().keys() == BUILT_IN.keys()


@pytest.mark.parametrize("name", EXPLICIT)
def test_numbers_are_true(name: str) -> None:
    """Order, stages, evaluations a step, embedded order and dense output are those of the method."""
    tableau = BUILT_IN[name].tableau
    embedded = "–" if tableau.embedded_order is None else str(tableau.embedded_order)
    kind = "" if tableau.dense else ", quartic" if tableau.quartic else ", Hermite"
    dense = f"{tableau.interpolation_order}{kind}"
    numbers = [str(tableau.order), str(tableau.stages), str(evaluations_a_step(name)), embedded, dense]
    assert rows()[name][:5] == numbers


def test_observed_orders_are_those_claimed() -> None:
    """The table of observed orders has a row for each solver, whose order at the end of the steps is within 0.4."""
    table = (
        (DOCS / "solver_measurements.md").read_text().partition("| solver | family | order |")[2].partition("\n\n")[0]
    )
    observed = {cells[0]: cells[2:4] for line in table.splitlines()[2:] if (cells := line.strip("| ").split(" | "))}
    assert observed.keys() == BUILT_IN.keys()
    for name, (claimed, at_the_end) in observed.items():
        assert int(claimed) == BUILT_IN[name].order or name == "TorchDiffEq"  # whose order is its method's
        assert abs(float(at_the_end) - int(claimed)) <= 0.4
