"""Laws of the trained weights that recipes bring: they give the numbers in `docs/results.md`."""

import csv
from pathlib import Path

import pytest

from odeflow.cli.main import main
from odeflow.config import recipes

ERRORS = {"mnist/ode_net": 0.33}
"""Test error in percent."""


@pytest.mark.parametrize("name", ERRORS)
def test_weights_are_small(name: str) -> None:
    """They are less than a megabyte, so that they can lie beside the recipe."""
    assert recipes.weights(name).stat().st_size < 1e6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:UserWarning:lightning.*", "ignore:.*treespec, LeafSpec:FutureWarning")
@pytest.mark.parametrize("name", ERRORS)
def test_weights_reproduce_their_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path
) -> None:
    """`odeflow test -c NAME --weights` prints the error of the table, exactly."""
    monkeypatch.chdir(tmp_path)
    words = [
        "test",
        "-c",
        name,
        "--weights",
        "--data.root",
        str(shared / "data/mnist"),
        "--trainer.enable_progress_bar",
        "false",
    ]
    assert main(words) == 0
    with Path("runs", name, "version_0/metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["test/error_percent"]) == pytest.approx(ERRORS[name], abs=1e-4)
