"""Laws of the recipes: each can be run, and does what its head says."""

import csv
import math
from collections.abc import Callable
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
from odeflow_data import ToyDensity

SHIPPED = Path(__file__).parents[2] / "recipes"
OURS = [
    name
    for name, file in recipes.available().items()
    if file.is_relative_to(SHIPPED) and not name.startswith("overlays/")
]
REAL = {
    "CharacterTrajectories": ("data/character_trajectories", "--data.batch_size", "10"),
    "MNIST": ("data/mnist", "--data.batch_size", "16", "--data.val_size", "100"),
    "Mocap": ("data/mocap", "--data.steps", "1"),
    "Hopper": ("data/hopper", "--data.batch_size", "10"),
    "Pendulum": ("data/schmidt_lipson", "--data.steps", "1"),
    "PhysioNet2012": ("data/physionet2012", "--data.batch_size", "10"),
    "Power": ("data/power", "--data.batch_size", "5000"),
}
"""Where the data are that do not come with a package, and options of small batches."""
SMALL = {
    "sde/lorenz": ("--data.count", "64"),
    "sde/lorenz_ode": ("--data.count", "64"),
    "density/mnist_density": ("--data.batch_size", "4", "--data.val_size", "4"),
    "matching/mnist": ("--data.batch_size", "4", "--data.val_size", "4", "--model.solver.rtol", "0.1"),
    "matching/cifar10": ("--model.dynamics.dynamics.hidden", "8", "--model.solver.rtol", "0.1"),
    "score/mnist": ("--data.batch_size", "4", "--data.val_size", "4", "--model.solver.rtol", "0.1"),
    "shooting/linear": ("--model.solver.step_size", "0.05"),
}
"""Options that make a step of a recipe fast."""
MOMENTS = ("1_start", "2_midway", "3_end")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec:FutureWarning", "ignore:.*:UserWarning:lightning.*"
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw_at: Callable[..., None]) -> None:
    """Every recipe runs in an empty folder, and draws its figures at the end alone."""
    monkeypatch.chdir(tmp_path)
    draw_at("3_end")


def logged(folder: Path, name: str) -> list[float]:
    """The values of a metric in a run's log."""
    with (folder / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def last(folder: Path, name: str) -> float:
    return logged(folder, name)[-1]


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


@pytest.mark.parametrize("below", OURS)
def test_overlays_lie_on_every_recipe(below: str) -> None:
    """An overlay changes the trainer alone."""
    plain = Request.of(["-c", below]).configuration("fit", checkpoint.specs)
    trainer = plain.pop("trainer")
    for name in ("overlays/ddp2", "overlays/wandb"):
        laid = Request.of(["-c", below, "-c", name]).configuration("fit", checkpoint.specs)
        assert laid.pop("trainer") != trainer
        assert laid == plain


def small_cifar10(folder: Path) -> Path:
    """A folder of files as CIFAR-10 has them, with four records each."""
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / f"{name}.bin").write_bytes(bytes(number % 10 for number in range(4 * 3073)))
    return folder


@pytest.mark.parametrize("name", OURS)
def test_every_recipe_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Each recipe trains and validates by the command line, and leaves its checkpoints, metrics and configuration."""
    for size, value in {"FINE": 10, "COARSE": 10, "MOMENTS": 2, "MOST_PAIRS": 2}.items():
        monkeypatch.setattr(f"odeflow_tasks.density_figures.{size}", value)
    few = ["--trainer.max_epochs", "1", "--trainer.limit_val_batches", "1", "--trainer.num_sanity_val_steps", "0"]
    few += ["--trainer.check_val_every_n_epoch", "1"]
    few += SMALL.get(name, ())
    data = recipes.read(name)["data"]["class_path"]
    root, *small = REAL.get(data, (None,))
    if data == "CIFAR10":  # which is not at hand
        few += ["--data.root", str(small_cifar10(tmp_path / "small")), "--data.verify", "false"]
        few += ["--data.batch_size", "4", "--data.val_size", "4"]
    if root is None:
        folder = fit(name, *few, "--trainer.limit_train_batches", "2", "--trainer.log_every_n_steps", "1")
    else:
        real = tmp_path / "real"  # where a data set may keep what it made of the files
        real.mkdir()
        for file in (request.getfixturevalue("shared") / root).iterdir():
            (real / file.name).symlink_to(file)
        folder = fit(name, *small, *few, "--trainer.limit_train_batches", "1", "--data.root", str(real))
    assert math.isfinite(last(folder, "val/loss"))
    assert {file.name for file in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (folder / "config.yaml").is_file()


def test_spiral_learns_its_field(draw_at: Callable[..., None]) -> None:
    """In a third of the recipe the mean distance over the full trajectory falls below 0.25, and the pictures are there."""
    draw_at(*MOMENTS)
    folder = fit("spiral", "--trainer.max_epochs", "5")
    assert min(logged(folder, "val/loss")) < 0.25
    names = {file.name for file in (folder / "figures").iterdir()}
    assert names == {f"phase_portrait_{moment}.png" for moment in MOMENTS}


@pytest.mark.slow
def test_the_spiral_reaches_what_it_did() -> None:
    """The whole recipe: the mean distance over the full trajectory falls below 0.2."""
    assert min(logged(fit("spiral"), "val/loss")) < 0.2


def test_the_matrix_of_the_spiral_is_found() -> None:
    """The whole recipe: y³A with A to a hundredth."""
    task = load(fit("trajectory/spiral") / "checkpoints/best.ckpt")
    wanted = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    torch.testing.assert_close(task.flow.dynamics.dynamics.weight.detach(), wanted, atol=0.01, rtol=0)


@pytest.mark.parametrize("name", ["shooting/linear", "shooting/bullet"])
def test_shooting_hits(name: str) -> None:
    """The whole recipes end within 1e-3 of their target, and draw the paths; a looser solver makes the linear one fast."""
    folder = fit(name, "--model.solver", "Dopri5", "--model.solver.rtol", "1e-6", "--model.solver.atol", "1e-6")
    assert last(folder, "val/distance") < 1e-3
    assert (folder / "figures/paths_3_end.png").is_file()


def test_decay_is_tested_by_solvers() -> None:
    """Without training, the test of the decay is the error of the solver: the midpoint rule's is smaller than Euler's."""
    errors = []
    for number, solver in enumerate(("Euler", "Midpoint")):
        options = ["--model.solver", solver, "--model.solver.step_size", "0.1"]
        assert main(["test", "-c", "decay", "--trainer.enable_progress_bar", "false", *options]) == 0
        errors.append(last(Path("runs/decay") / f"version_{number}", "test/forecast_mae"))
    assert 0 < errors[1] < 0.05 * errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lotka_volterra", "pendulum", "pendulum_net"])
def test_forecasts_beat_persistence(name: str, request: pytest.FixtureRequest) -> None:
    """The whole recipes, on real measurements: a fifth of the error of the forecast that nothing changes, or less."""
    root = None if name == "lotka_volterra" else str(request.getfixturevalue("shared") / REAL["Pendulum"][0])
    folder = fit(f"trajectory/{name}", *([] if root is None else ["--data.root", root]))
    trained = str(folder / "checkpoints/best.ckpt")
    assert main(["test", "--ckpt_path", trained, "--trainer.enable_progress_bar", "false"]) == 0
    tested = folder / "test/version_0"
    assert last(tested, "test/forecast_mae") < 0.2 * last(tested, "test/persistence_mae")


def test_digits_learn() -> None:
    """A schedule of four epochs instead of ten, with half of the channels, reaches 50 % on the validation part."""
    few = ["--trainer.max_epochs", "4", "--model.dynamics.channels", "16"]
    assert last(fit("digits/ode_net", *few), "val/accuracy") > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OURS if name.startswith("digits/")])
def test_digits_reach_what_each_recipe_says(name: str) -> None:
    """The whole recipes: at least 95 % on the validation part."""
    assert last(fit(name), "val/accuracy") >= 0.95


def test_one_dimension_more_lets_trajectories_cross() -> None:
    """After five epochs the augmented flow exchanges −1 and 1; the one on the line is never better than 1."""
    short = ["--trainer.max_epochs", "5", "--model.solver.rtol", "1e-3", "--model.solver.atol", "1e-4"]
    assert last(fit("anode/crossing", *short), "val/loss") <= 0.01
    plain = fit("anode/crossing_plain", *short)
    assert min(logged(plain, "val/loss") + logged(plain, "train/loss")) >= 0.999
    assert last(plain, "val/loss") <= 1.1


@pytest.mark.slow
def test_crossing_reaches_what_the_recipes_say() -> None:
    """The whole recipes: a mean square error of at most 0.001 with one dimension more, and of at least 1 without."""
    assert last(fit("anode/crossing"), "val/loss") <= 0.001
    plain = fit("anode/crossing_plain")
    assert min(logged(plain, "val/loss") + logged(plain, "train/loss")) >= 0.999
    assert last(plain, "val/loss") <= 1.01


@pytest.mark.slow
def test_spheres_are_easier_in_space() -> None:
    """The whole recipes: with one dimension more the flow ends with fewer evaluations, and the smaller error."""
    lifted, plain = fit("anode/spheres"), fit("anode/spheres_plain")
    assert last(lifted, "nfe/forward_epoch") < 0.7 * last(plain, "nfe/forward_epoch")
    assert min(logged(lifted, "val/loss")) < 0.5 * min(logged(plain, "val/loss"))


def test_densities_of_images_are_learned() -> None:
    """On small digits, bits per dimension are logged, and fall in two epochs below what uniform pixels take."""
    folder = fit("density/digits", "--trainer.max_epochs", "2")
    assert last(folder, "val/bits_per_dim") < 3 < math.log2(17)
    assert (folder / "figures/samples_3_end.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two_moons", "two_circles", "eight_gaussians", "checkerboard"])
def test_densities_of_the_plane_come_near_the_truth(name: str) -> None:
    """The whole recipes: the test's negative log-likelihood is at most 0.05 nats above the entropy."""
    folder = fit(f"density/{name}")
    assert main(["test", "--ckpt_path", str(folder / "checkpoints/best.ckpt")]) == 0
    data = build(recipes.read(f"density/{name}")["data"])
    assert isinstance(data, ToyDensity)
    assert last(folder / "test/version_0", "test/loss") == pytest.approx(data.entropy(), abs=0.05)


def test_spirals_begin_to_be_learned() -> None:
    """A hundred steps take a third off the error of a latent ODE; from its checkpoint alone test spirals are predicted and drawn."""
    short = ["--trainer.max_epochs", "14", "--trainer.check_val_every_n_epoch", "2"]
    folder = fit("latent/spirals", *short, "--data.observations", "50")
    assert last(folder, "val/rmse") < 0.67 * logged(folder, "val/rmse")[0]
    names = {file.name for file in (folder / "figures").iterdir()}
    assert names == {f"{name}_3_end.png" for name in ("series", "plane", "latent", "samples")}
    best_checkpoint = str(folder / "checkpoints/best.ckpt")
    assert main(["predict", "--ckpt_path", best_checkpoint, "--trainer.enable_progress_bar", "false"]) == 0
    predictions = torch.load(folder / "predict/version_0/predictions.pt")
    assert [tuple(each.shape) for each in predictions] == [(100, 150, 2), (100, 150, 2)]
    assert main(["sample", "--ckpt_path", best_checkpoint, "--count", "5"]) == 0
    assert np.load(folder / "samples.npz")["x"].shape == (5, 100, 2)


def test_mnist_begins_to_learn(shared: Path) -> None:
    """On real MNIST the published net, with a quarter of the channels, beats guessing three times over after a hundred steps."""
    few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "100", "--data.val_size", "500"]
    few += ["--model.dynamics.channels", "16", "--data.batch_size", "64"]
    folder = fit("mnist/ode_net", "--data.root", str(shared / "data/mnist"), *few)
    assert last(folder, "val/accuracy") > 0.3


@pytest.mark.slow
def test_mnist_in_one_epoch(shared: Path) -> None:
    """One epoch on real MNIST: at most 2 % test error, repeated from the checkpoint alone, under a tighter solver too."""
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
