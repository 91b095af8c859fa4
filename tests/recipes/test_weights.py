"""Laws of the trained weights that recipes bring: they give the numbers in `docs/results.md`."""

import csv
import importlib
import json
import struct
from pathlib import Path

import pytest

import odeflow as of
from choice import few
from odeflow.cli.main import main
from odeflow.config import recipes
from odeflow.training import weights

ERRORS = {
    "mnist/ode_net": 0.33,
    "mnist/mlp": 1.04,
    "mnist/unet": 0.55,
    "mnist/transformer": 0.77,
    "mnist/resnet": 0.33,
    "mnist/rk_net": 0.43,
}
"""Test error in percent."""

SHIPPED = [
    name
    for name in recipes.available()
    if not name.startswith(("overlays/", "sweeps/")) and recipes.weights(name).is_file()
]
"""The recipes with weights."""
SERIES = {"latent/periodic": ("test/interpolation_mse", 6.9e-4), "latent/spirals": ("test/rmse", 0.0719)}
"""A metric of a model of series, and its value."""


@pytest.mark.parametrize("name", [*ERRORS, *SERIES, "matching/mnist"])
def test_weights_are_small(name: str) -> None:
    """They are less than a megabyte, those of the ResNet 2.4, so that they can lie beside the recipe."""
    assert recipes.weights(name).stat().st_size < (2.4e6 if name == "mnist/resnet" else 1e6)


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_have_a_checksum(name: str, tmp_path: Path) -> None:
    """They are those that were exported; the model of a file in which a byte differs is not built."""
    whole = recipes.weights(name).read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    assert weights.CHECKSUM in json.loads(whole[8 : 8 + length])["__metadata__"]
    of.load(recipes.weights(name))
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(of.CheckpointError, match=r"changed.safetensors is damaged: its weights are not those"):
        of.load(changed)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:lightning.*", "ignore:.*treespec, LeafSpec:FutureWarning")
@pytest.mark.parametrize("name", few(ERRORS, ["mnist/ode_net", "mnist/mlp"]))
def test_weights_reproduce_their_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path
) -> None:
    """`odeflow test -c NAME --weights` prints the error of the table, exactly."""
    monkeypatch.chdir(tmp_path)
    root = shared / "data/mnist"
    assert main(["test", "-c", name, "--weights", f"--data.root={root}", "--trainer.enable_progress_bar=false"]) == 0
    with Path("runs", name, "version_0/metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["test/error_percent"]) == pytest.approx(ERRORS[name], abs=1e-4)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:lightning.*", "ignore:.*treespec, LeafSpec:FutureWarning")
@pytest.mark.parametrize("name", SERIES)
def test_weights_of_series_reproduce_their_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`odeflow test -c NAME --weights` has the error of the table, up to the rounding of another machine."""
    monkeypatch.chdir(tmp_path)
    assert main(["test", "-c", name, "--weights", "--trainer.enable_progress_bar=false"]) == 0
    with Path("runs", name, "version_0/metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    metric, value = SERIES[name]
    assert float(row[metric]) == pytest.approx(value, rel=0.03)


def test_guided_samples_are_the_digits_that_they_should_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 100 samples by eight evaluations with guidance, the ODE-Net takes nearly all for their class."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    script = importlib.import_module("sampled_digits")
    monkeypatch.setattr(script, "AT_ONCE", 100)
    script.main([str(recipes.weights("matching/mnist")), "--count", "100", "--steps", "4", "--scale", "2"])
    line = capsys.readouterr().out
    assert line.startswith("Heun, 4 steps, scale 2, 16 evaluations: ")
    assert float(line.split(": ")[1].split()[0]) > 95
