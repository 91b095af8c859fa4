"""Families of solvers of an outside author's, written with public names only: the example's and that of the page."""

import ast
import re
from pathlib import Path

import pytest

import odeflow as of

PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "solver_family.md"
LAWS = """
import warnings; warnings.simplefilter("error")
import math, torch, odeflow as of
from {family} import {methods}
from odeflow.testing import check_solver

def error(solver):  # dy/dt = −2 t y², y(0) = 1: y(t) = 1 / (1 + t²)
    y = of.solve(lambda t, y: -2 * t * y**2, torch.ones(1, dtype=torch.float64), [0.0, 1.0], solver=solver, params=()).y
    return abs(y[-1].item() - 0.5)

for method in ({methods},):
    check_solver(method)
    errors = [error(method(num_steps=steps, jump_ts=[0.3001])) for steps in (100, 200)]
    assert abs(math.log2(errors[0] / errors[1]) - method.order) < 0.2, errors
"""
TWO_STEP = """
for a, b in ((0, 1), (2, 0)), ((1, 0), (1, 0)), ((2, -1), (1, -1)):
    try:
        type("Wrong", (Nystrom.__base__,), {"a": a, "b": b})
    except of.TableauError as problem:
        print(problem)
    else:
        print("accepted")
"""
CHEBYSHEV = """
def decay(solver):  # h λ = −40
    return of.solve(lambda t, y: -40 * y, torch.ones(1), [0.0, 4.0], solver=solver, params=()).y[-1].abs().item()

assert decay(Chebyshev5(num_steps=4)) < 1 < 1e6 < decay(type("Euler1", (Chebyshev5,), {"count": 1})(num_steps=4))
assert error(Chebyshev5(1e-2, 1e-2)) < 1e-2
assert error(Chebyshev5(1e-4, 1e-4)) < 1e-4
"""


@pytest.fixture(scope="module")
def families(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the families, each in a file of its own."""
    folder = tmp_path_factory.mktemp("families")
    (folder / "two_step.py").write_text((examples / "two_step.py").read_text())
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (snippet,) = (text for text in snippets if "(of.Stepper)" in text)
    (folder / "chebyshev.py").write_text(snippet)
    return folder


@pytest.mark.parametrize("family", ["two_step", "chebyshev"])
def test_names_are_public(families: Path, family: str) -> None:
    """A family imports odeflow itself and nothing inside it, and each name that it takes from there is a public one."""
    tree = ast.parse((families / f"{family}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module for module in imported if module.startswith("odeflow")} == {"odeflow"}
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    taken = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "of"}
    assert {"Stepper", "MemoryStages", "required"} <= taken <= set(of.__all__)


def test_two_step_family(families, shell):
    """Its methods keep the laws of solvers, and their order where a jump changes the step; wrong coefficients are refused.

    On the command line its methods are solvers, and the family itself is none.
    """
    laws, listed = shell(families).session(
        LAWS.format(family="two_step", methods="Nystrom, ExtrapolatedBDF2") + TWO_STEP,
        ["plugins", "--plugins", "two_step.py", "list", "solver"],
    )
    assert laws.status == 0, laws.err
    messages = laws.out.splitlines()
    assert messages[0] == "accepted"
    assert messages[1].startswith("Wrong must have a₀ + a₁ = 1, b₀ + b₁ = 1 + a₁, a₁ − 2 b₁ = 1 and −1 < a₁ ≤ 1; got")
    assert messages[1].endswith("a = (1, 0) and b = (1, 0)")
    assert messages[2].endswith("a = (2, -1) and b = (1, -1)")
    assert listed.status == 0, listed.err
    names = {line.split()[1] for line in listed.out.splitlines()}
    assert {"Nystrom", "ExtrapolatedBDF2"} <= names
    assert "TwoStep" not in names


def test_family_of_the_page(families, shell):
    """Its methods keep the laws of solvers, are stable where Euler's is not, and adapt their steps to the tolerances."""
    (laws,) = shell(families).session(LAWS.format(family="chebyshev", methods="Chebyshev5") + CHEBYSHEV)
    assert laws.status == 0, laws.err
