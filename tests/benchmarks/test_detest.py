"""Laws of the DETEST problems: their published properties, and errors in proportion to the tolerance."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from detest import Outcome, amplification, outcome, table, truth, worst_table
from detest_problems import problems

PROBLEMS = {problem.name: problem for problem in problems()}


def test_there_are_25_problems_in_five_classes() -> None:
    """A1 to E5."""
    assert list(PROBLEMS) == [f"{group}{number}" for group in "ABCDE" for number in range(1, 6)]


def test_known_solutions() -> None:
    """Where there is a closed form the reference solution is it."""
    end = {name: truth(PROBLEMS[name])[-1] for name in ("A1", "A2", "A3", "A4", "C1", "D1", "E1")}
    assert float(end["A1"][0]) == pytest.approx(math.exp(-20), abs=1e-13)
    assert float(end["A2"][0]) == pytest.approx(1 / math.sqrt(21), rel=1e-11)
    assert float(end["A3"][0]) == pytest.approx(math.exp(math.sin(20)), rel=1e-11)
    assert float(end["A4"][0]) == pytest.approx(20 / (1 + 19 * math.exp(-5)), rel=1e-11)
    assert float(end["C1"].sum()) == pytest.approx(1, rel=1e-12)
    position, velocity = end["D1"][:2], end["D1"][2:]
    assert float(velocity.square().sum() / 2 - 1 / position.norm()) == pytest.approx(-0.5, abs=1e-10)
    bessel = math.sqrt(2 / (math.pi * 21)) * math.sin(21)
    assert float(end["E1"][0]) == pytest.approx(bessel, abs=1e-10)


def test_planets_conserve_energy_about_the_sun() -> None:
    """C5: in 20 units of time (2000 days) Jupiter goes round about half of its orbit, at its distance."""
    states = truth(PROBLEMS["C5"]).view(-1, 2, 5, 3)
    distances = states[:, 0].norm(dim=2)
    assert float(distances[:, 0].min()) > 4.9
    assert float(distances[:, 0].max()) < 5.5
    angle = torch.atan2(states[:, 0, 0, 1], states[:, 0, 0, 0])
    turned = float((angle.diff().remainder(2 * math.pi)).sum())
    assert turned == pytest.approx(2 * math.pi * 2000 / 4332, rel=0.1)


@pytest.mark.parametrize("solver", ["Dopri5", "Tsit5", "Dopri8"])
@pytest.mark.parametrize("name", ["A3", "B2", "C1", "E1"])
def test_errors_are_within_100_tolerances(name: str, solver: str) -> None:
    """At loose and tight tolerances."""
    reference = truth(PROBLEMS[name])
    for tolerance in (1e-3, 1e-6, 1e-9):
        assert outcome(PROBLEMS[name], solver, tolerance, reference).ratio < 100


@pytest.mark.parametrize("name", ["B1", "D3"])
def test_where_problems_amplify_errors_ours_are_scipys(name: str) -> None:
    """Dopri5 has the errors and evaluations of scipy's RK45, the same pair, within a factor of two and a fifth."""
    reference = truth(PROBLEMS[name])
    ours, theirs = (outcome(PROBLEMS[name], solver, 1e-6, reference) for solver in ("Dopri5", "RK45"))
    assert 0.5 < ours.ratio / theirs.ratio < 2
    assert 0.8 < ours.nfe / theirs.nfe < 1.2
    assert "| `Dopri5` | scipy RK45 |" in table(
        {(name, "Dopri5", 1e-6): ours, (name, "RK45", 1e-6): theirs}, ["Dopri5", "RK45"], [1e-6]
    )


@pytest.mark.parametrize("name", ["C5", "D3", "D5"])
def test_errors_of_all_steps_in_sum_are_within_10_tolerances(name: str) -> None:
    """With error_per="span" Dopri8 solves the problems that amplify errors, too, at loose and tight tolerances."""
    reference = truth(PROBLEMS[name])
    for tolerance in (1e-3, 1e-6, 1e-9):
        assert outcome(PROBLEMS[name], "Dopri8/error_per=span", tolerance, reference).ratio < 10


def test_amplifications_are_known_ones() -> None:
    """That of a decay is 1; that of an orbit grows with its eccentricity."""
    found = {name: amplification(PROBLEMS[name], truth(PROBLEMS[name])) for name in ("A1", "D1", "D2")}
    assert found["A1"] == pytest.approx(1)  # at the start
    assert 100 < found["D1"] < found["D2"] < 1000
    one = Outcome(3.0, 7)
    lines = worst_table(
        {("D2", "Dopri8/error_per=span", 1e-3): one}, ["Dopri8/error_per=span"], {"D2": found["D2"]}
    ).splitlines()
    assert lines[0] == "| problem | amplification | `Dopri8/error_per=span` |"
    assert lines[2] == f"| D2 | {found['D2']:.3g} | 3 |"
