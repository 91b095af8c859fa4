"""Laws of the recipes: each can be run, and does what its head says."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from odeflow import load
from odeflow.cli.main import main
from odeflow.cli.prepare import prepared
from odeflow.config import recipes
from odeflow.config.request import Request
from odeflow.plugin.registry import build
from odeflow.training import checkpoint
from odeflow.training.callbacks import Figures
from odeflow_data import ToyDensity

SHIPPED = Path(__file__).parents[2] / "recipes"
OURS = [
    name
    for name, file in recipes.available().items()
    if file.is_relative_to(SHIPPED) and not name.startswith("overlays/")
]
REAL = {
    "MNIST": "data/mnist",
    "Hopper": "data/hopper",
    "Pendulum": "data/schmidt_lipson",
    "PhysioNet2012": "data/physionet2012",
    "Power": "data/power",
}
"""Where the data are that do not come with a package."""
MOMENTS = ("1_start", "2_midway", "3_end")
LIGHTNING_WARNS = pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec:FutureWarning", "ignore:.*:UserWarning:lightning.*"
)


def last(folder: Path, name: str) -> float:
    """The last value of a metric in a run's log."""
    with (folder / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)][-1]


def first(folder: Path, name: str) -> float:
    """The first value of a metric in a run's log."""
    with (folder / "metrics.csv").open() as file:
        return next(float(row[name]) for row in csv.DictReader(file) if row.get(name))


def best(folder: Path, name: str) -> float:
    with (folder / "metrics.csv").open() as file:
        return min(float(row[name]) for row in csv.DictReader(file) if row.get(name))


def draw_at(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """Leaves out the figures of the other moments, which take longer than a few steps."""
    draw = Figures._draw
    monkeypatch.setattr(Figures, "_draw", lambda *words: draw(*words) if words[-1] == wanted else None)


def fit(recipe: str, *options: str) -> Path:
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    assert main(["fit", "-c", recipe, *quiet, *options]) == 0
    return Path("runs") / recipe / "version_0"


@pytest.mark.parametrize("name", OURS)
def test_every_recipe_names_plugins_that_exist(name: str) -> None:
    """Each recipe has a head, names known plugins and options only, and keeps the best checkpoint."""
    config = prepared("fit", Request.of(["-c", name]))
    assert recipes.headline(recipes.find(name))
    callbacks = config["trainer"]["callbacks"]
    (keeper,) = [each for each in callbacks if each["class_path"].endswith("ModelCheckpoint")]
    assert keeper["init_args"]["filename"] == "best"


@pytest.mark.parametrize("name", ["overlays/ddp2", "overlays/wandb"])
def test_overlays_lie_on_every_recipe(name: str) -> None:
    """An overlay changes the trainer alone."""
    for below in OURS:
        plain = Request.of(["-c", below]).configuration("fit", checkpoint.specs)
        laid = Request.of(["-c", below, "-c", name]).configuration("fit", checkpoint.specs)
        assert {key: value for key, value in laid.items() if key != "trainer"} == {
            key: value for key, value in plain.items() if key != "trainer"
        }
        assert laid["trainer"] != plain["trainer"]


@LIGHTNING_WARNS
@pytest.mark.parametrize("name", OURS)
def test_every_recipe_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Each recipe trains and validates by the command line, and leaves its checkpoints, metrics and configuration."""
    monkeypatch.chdir(tmp_path)
    for side in ("FINE", "COARSE"):
        monkeypatch.setattr(f"odeflow_tasks.density_figures.{side}", 10)
    draw_at(monkeypatch, "3_end")
    few = ["--trainer.max_epochs", "1", "--trainer.limit_val_batches", "1", "--trainer.num_sanity_val_steps", "0"]
    few += ["--trainer.check_val_every_n_epoch", "1"]
    root = REAL.get(recipes.read(name)["data"]["class_path"])
    if root is None:
        folder = fit(name, *few, "--trainer.limit_train_batches", "2", "--trainer.log_every_n_steps", "1")
    else:
        real = tmp_path / "real"  # where a data set may keep what it made of the files
        real.mkdir()
        for file in (request.getfixturevalue("shared") / root).iterdir():
            (real / file.name).symlink_to(file)
        folder = fit(name, *few, "--trainer.limit_train_batches", "1", "--data.root", str(real))
    assert math.isfinite(last(folder, "val/loss"))
    assert {file.name for file in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (folder / "config.yaml").is_file()


@LIGHTNING_WARNS
def test_spiral_learns_its_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole recipe: over the full trajectory the mean distance falls below 0.2, and the pictures are there."""
    monkeypatch.chdir(tmp_path)
    folder = fit("spiral")
    assert best(folder, "val/loss") < 0.2
    names = {file.name for file in (folder / "figures").iterdir()}
    assert names == {f"phase_portrait_{moment}.png" for moment in MOMENTS}


@LIGHTNING_WARNS
def test_the_matrix_of_the_spiral_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole recipe: y³A with A to a hundredth."""
    monkeypatch.chdir(tmp_path)
    task = load(fit("trajectory/spiral") / "checkpoints/best.ckpt")
    wanted = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    torch.testing.assert_close(task.flow.dynamics.dynamics.weight.detach(), wanted, atol=0.01, rtol=0)


@LIGHTNING_WARNS
@pytest.mark.parametrize("name", ["shooting/linear", "shooting/bullet"])
def test_shooting_hits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole recipes end within 1e-3 of their target, and draw the paths; a looser solver makes the linear one fast."""
    monkeypatch.chdir(tmp_path)
    folder = fit(name, "--model.solver", "Dopri5", "--model.solver.rtol", "1e-6", "--model.solver.atol", "1e-6")
    assert last(folder, "val/distance") < 1e-3
    assert (folder / "figures/paths_3_end.png").is_file()


@LIGHTNING_WARNS
def test_decay_is_tested_by_solvers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without training, the test of the decay is the error of the solver: the midpoint rule's is smaller than Euler's."""
    monkeypatch.chdir(tmp_path)
    errors = []
    for number, solver in enumerate(("Euler", "Midpoint")):
        options = ["--model.solver", solver, "--model.solver.step_size", "0.1"]
        assert main(["test", "-c", "decay", "--trainer.enable_progress_bar", "false", *options]) == 0
        errors.append(last(Path("runs/decay") / f"version_{number}", "test/forecast_mae"))
    assert 0 < errors[1] < 0.05 * errors[0]


@pytest.mark.slow
@LIGHTNING_WARNS
@pytest.mark.parametrize("name", ["lotka_volterra", "pendulum", "pendulum_net"])
def test_forecasts_beat_persistence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The whole recipes, on real measurements: a fifth of the error of the forecast that nothing changes, or less."""
    monkeypatch.chdir(tmp_path)
    root = None if name == "lotka_volterra" else str(request.getfixturevalue("shared") / REAL["Pendulum"])
    folder = fit(f"trajectory/{name}", *([] if root is None else ["--data.root", root]))
    trained = str(folder / "checkpoints/best.ckpt")
    assert main(["test", "--ckpt_path", trained, "--trainer.enable_progress_bar", "false"]) == 0
    tested = folder / "test/version_0"
    assert last(tested, "test/forecast_mae") < 0.2 * last(tested, "test/persistence_mae")


@LIGHTNING_WARNS
def test_digits_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule of four epochs instead of ten reaches 70 % on the validation part."""
    monkeypatch.chdir(tmp_path)
    assert last(fit("digits/ode_net", "--trainer.max_epochs", "4"), "val/accuracy") > 0.7


@pytest.mark.slow
@LIGHTNING_WARNS
@pytest.mark.parametrize("name", [name for name in OURS if name.startswith("digits/")])
def test_digits_reach_what_each_recipe_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole recipes: at least 95 % on the validation part."""
    monkeypatch.chdir(tmp_path)
    assert last(fit(name), "val/accuracy") >= 0.95


@LIGHTNING_WARNS
def test_one_dimension_more_lets_trajectories_cross(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five epochs the augmented flow exchanges −1 and 1; the one on the line is never better than 1."""
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.max_epochs", "5"]
    assert last(fit("anode/crossing", *short), "val/loss") <= 0.01
    plain = fit("anode/crossing_plain", *short)
    assert min(best(plain, "val/loss"), best(plain, "train/loss")) >= 0.999
    assert last(plain, "val/loss") <= 1.1


@pytest.mark.slow
@LIGHTNING_WARNS
def test_crossing_reaches_what_the_recipes_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole recipes: a mean square error of at most 0.001 with one dimension more, and of at least 1 without."""
    monkeypatch.chdir(tmp_path)
    assert last(fit("anode/crossing"), "val/loss") <= 0.001
    plain = fit("anode/crossing_plain")
    assert min(best(plain, "val/loss"), best(plain, "train/loss")) >= 0.999
    assert last(plain, "val/loss") <= 1.01


@pytest.mark.slow
@LIGHTNING_WARNS
def test_spheres_are_easier_in_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole recipes: with one dimension more the flow ends with fewer evaluations, and the smaller error."""
    monkeypatch.chdir(tmp_path)
    lifted, plain = fit("anode/spheres"), fit("anode/spheres_plain")
    assert last(lifted, "nfe/forward_epoch") < 0.7 * last(plain, "nfe/forward_epoch")
    assert best(lifted, "val/loss") < 0.5 * best(plain, "val/loss")


@LIGHTNING_WARNS
def test_densities_of_images_are_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On small digits, bits per dimension are logged, and fall in two epochs below what uniform pixels take."""
    monkeypatch.chdir(tmp_path)
    folder = fit("density/digits", "--trainer.max_epochs", "2")
    assert last(folder, "val/bits_per_dim") < 3 < math.log2(17)
    assert (folder / "figures/samples_3_end.png").is_file()


@pytest.mark.slow
@LIGHTNING_WARNS
@pytest.mark.parametrize("name", ["two_moons", "two_circles", "eight_gaussians", "checkerboard"])
def test_densities_of_the_plane_come_near_the_truth(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole recipes: the test's negative log-likelihood is at most 0.05 nats above the entropy."""
    monkeypatch.chdir(tmp_path)
    folder = fit(f"density/{name}")
    assert main(["test", "--ckpt_path", str(folder / "checkpoints/best.ckpt")]) == 0
    data = build(recipes.read(f"density/{name}")["data"])
    assert isinstance(data, ToyDensity)
    assert last(folder / "test/version_0", "test/loss") == pytest.approx(data.entropy(), abs=0.05)


@LIGHTNING_WARNS
def test_spirals_begin_to_be_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred steps halve the error of a latent ODE; from its checkpoint alone test spirals are predicted and drawn."""
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.max_epochs", "14", "--trainer.check_val_every_n_epoch", "2"]
    folder = fit("latent/spirals", *short, "--data.observations", "50")
    assert last(folder, "val/rmse") < 0.5 * first(folder, "val/rmse")
    names = {file.name for file in (folder / "figures").iterdir()}
    assert names == {f"{name}_{moment}.png" for name in ("series", "plane", "latent", "samples") for moment in MOMENTS}
    best_checkpoint = str(folder / "checkpoints/best.ckpt")
    assert main(["predict", "--ckpt_path", best_checkpoint, "--trainer.enable_progress_bar", "false"]) == 0
    predictions = torch.load(folder / "predict/version_0/predictions.pt")
    assert [tuple(each.shape) for each in predictions] == [(100, 150, 2), (100, 150, 2)]
    assert main(["sample", "--ckpt_path", best_checkpoint, "--count", "5"]) == 0
    assert np.load(folder / "samples.npz")["x"].shape == (5, 100, 2)


@LIGHTNING_WARNS
def test_mnist_begins_to_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path) -> None:
    """On real MNIST the published net beats guessing two times over after sixty steps."""
    monkeypatch.chdir(tmp_path)
    few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "60", "--trainer.limit_val_batches", "1"]
    folder = fit("mnist/ode_net", "--data.root", str(shared / "data/mnist"), *few)
    assert last(folder, "val/accuracy") > 0.2


@pytest.mark.slow
@LIGHTNING_WARNS
def test_mnist_in_one_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path) -> None:
    """One epoch on real MNIST: at most 2 % test error, repeated from the checkpoint alone, under a tighter solver too."""
    monkeypatch.chdir(tmp_path)
    folder = fit("mnist/ode_net", "--data.root", str(shared / "data/mnist"), "--trainer.max_epochs", "1")
    best_checkpoint = str(folder / "checkpoints/best.ckpt")
    tight = ["--model.solver", "Dopri5", "--model.solver.rtol", "1e-6", "--model.solver.atol", "1e-6"]
    evaluations = {}
    for label, options in {"same": [], "tight": tight}.items():
        assert main(["test", "--ckpt_path", best_checkpoint, "--trainer.enable_progress_bar", "false", *options]) == 0
        version = {"same": "version_0", "tight": "version_1"}[label]
        assert last(folder / "test" / version, "test/error_percent") <= 2
        evaluations[label] = last(folder / "test" / version, "test/nfe")
    assert evaluations["same"] == 8
    assert evaluations["tight"] > 20
