"""What is released agrees with itself."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import odeflow

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, str]:
    rows = [line.split("==") for line in (ROOT / name).read_text().splitlines() if "==" in line]
    return {package.lower().replace("_", "-"): version for package, version in rows}


def test_version_stands_once() -> None:
    """The package's version is `odeflow.__version__`, and the citation is of it."""
    assert "version" in PROJECT["dynamic"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == odeflow.__version__


@pytest.mark.parametrize(
    "requirement", [Requirement(each) for each in PROJECT["dependencies"]], ids=lambda each: each.name
)
def test_lowest_versions_are_those_allowed(requirement: Requirement) -> None:
    """constraints-lowest.txt pins each dependency to its lower bound, and constraints.txt to a version that is allowed."""
    name = requirement.name.lower().replace("_", "-")
    (lower,) = (each.version for each in requirement.specifier if each.operator == ">=")
    lowest = pins("constraints-lowest.txt")[name]
    assert lowest == lower or lowest.startswith(f"{lower}.")
    assert pins("constraints.txt")[name] in requirement.specifier


def test_extra_all_has_every_extra_of_users() -> None:
    """The extra `all` names those that are not for developers."""
    extras = PROJECT["optional-dependencies"]
    (named,) = (Requirement(each) for each in extras["all"])
    assert named.extras == set(extras) - {"all", "dev", "docs", "test"}
