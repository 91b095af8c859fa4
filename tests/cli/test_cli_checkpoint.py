"""Checkpoints: enough by themselves to test, predict, resume and load, and beaten by what the user types."""

import os
import shutil
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml
from torch import nn

import odeflow as of
from odeflow_data import Digits, Spiral
from odeflow_dynamics import MLP
from odeflow_solvers import RK4, Dopri5
from odeflow_tasks import Classification, Trajectory

QUIET = "--trainer.enable_progress_bar false --trainer.enable_model_summary false"
WITHOUT_COMMAND = pytest.mark.filterwarnings(  # Lightning's own, which the command line keeps quiet about
    "ignore:.*does not have many workers:UserWarning",  # the data of these tests are in memory
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
)


class _Plain(pl.LightningModule):
    """A LightningModule that is no Task."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(accelerator="cpu", max_epochs=1, limit_train_batches=2, logger=False, **quiet, **options)


def solver_of(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["solver"]


@pytest.fixture(scope="module")
def last(digits_run) -> Path:
    return digits_run / "checkpoints/last.ckpt"


@pytest.fixture
def batch():
    """The 300 images and labels that Digits keeps for the test."""
    data = Digits()
    data.setup("test")
    return next(iter(data.test_dataloader()))


# Evaluation by the checkpoint alone


def test_validation_repeats_the_number_of_the_training(done, metrics, newest, digits_run, last):
    """`validate --ckpt_path x` alone gives the val/loss and val/accuracy that the run noted when it kept x."""
    done(f"validate --ckpt_path {last} {QUIET}")
    noted, repeated = metrics(digits_run), metrics(newest(digits_run, "validate"))
    for name in ("val/loss", "val/accuracy", "val/nfe"):
        assert repeated[name] == pytest.approx(noted[name], rel=1e-6), name


def test_the_test_is_that_of_the_trained_model(done, metrics, newest, digits_run, last, batch):
    """`test --ckpt_path x` alone gives the error of the model that `odeflow.load(x)` gives."""
    done(f"test --ckpt_path {last} {QUIET}")
    images, labels = batch
    with torch.no_grad():
        wrong = (of.load(last)(images).argmax(1) != labels).float().mean().item()
    assert metrics(newest(digits_run, "test"))["test/error_percent"] == [pytest.approx(100 * wrong, rel=1e-5)]


def test_predictions_are_those_of_the_trained_model(done, newest, digits_run, last, batch):
    """`predict --ckpt_path x` alone writes all predictions, in order, to a file that loads safely."""
    done(f"predict --ckpt_path {last} {QUIET}")
    predictions = torch.load(newest(digits_run, "predict") / "predictions.pt", weights_only=True)
    with torch.no_grad():
        expected = of.load(last)(batch[0]).softmax(1)
    torch.testing.assert_close(torch.cat(predictions), expected, rtol=1e-4, atol=1e-5)


def test_trajectories_are_predicted(done, newest, spiral_run):
    """`predict` works for a task whose batches are no (inputs, labels), too."""
    done(f"predict --ckpt_path {spiral_run / 'checkpoints/best.ckpt'} {QUIET}")
    (prediction,) = torch.load(newest(spiral_run, "predict") / "predictions.pt", weights_only=True)
    assert prediction.shape == (1, 1000, 2)


# What the user types beats the checkpoint


def test_another_solver_is_really_used(done, metrics, newest, digits_run, last):
    """`--model.solver RK4 --model.solver.num_steps 3` evaluates the checkpoint by RK4: 12 evaluations a batch."""
    done(f"validate --ckpt_path {last} --model.solver RK4 --model.solver.num_steps 3 {QUIET}")
    run = newest(digits_run, "validate")
    assert metrics(run)["val/nfe"] == [12]
    assert solver_of(run)["class_path"].endswith("RK4")
    assert solver_of(run)["init_args"] == {
        "step_size": None,
        "num_steps": 3,
        "max_steps": None,
        "compile": False,
        "jump_ts": None,
    }


def test_a_tighter_tolerance_is_really_used(done, metrics, newest, digits_run, last):
    """`--model.solver.atol 1e-6` takes more evaluations than the run did; what is not typed stays the checkpoint's."""
    done(f"validate --ckpt_path {last} --model.solver.atol 1e-6 {QUIET}")
    run = newest(digits_run, "validate")
    assert metrics(run)["val/nfe"][0] > metrics(digits_run)["val/nfe"][0]
    assert solver_of(run)["init_args"]["atol"] == 1e-6
    assert solver_of(run)["init_args"]["rtol"] == 1e-3


def test_a_recipe_beats_the_checkpoint(done, metrics, newest, digits_run, last):
    """With -c and --ckpt_path, the recipe is laid onto what the checkpoint says."""
    Path("coarse.yaml").write_text("model: {init_args: {solver: {class_path: Euler, init_args: {num_steps: 5}}}}")
    done(f"validate -c coarse.yaml --ckpt_path {last} {QUIET}")
    run = newest(digits_run, "validate")
    assert metrics(run)["val/nfe"] == [5]
    assert (
        yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["dynamics"]["init_args"]["channels"]
        == 4
    )


def test_data_options_beat_the_checkpoint(done, metrics, newest, spiral_run):
    """Options of the data are the user's, too: another length of the trajectory, another loss."""
    best = spiral_run / "checkpoints/best.ckpt"
    done(f"test --ckpt_path {best} --data.observations 50 --data.t1 1.0 {QUIET}")
    run = newest(spiral_run, "test")
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    assert (data["observations"], data["t1"], data["batch_size"]) == (50, 1.0, 20)
    assert metrics(run)["test/loss"] != metrics(spiral_run)["val/loss"]


# Python


def test_load_gives_the_model_back(last, batch):
    """`odeflow.load(x)` has the weights of x, in evaluation mode, and its spec."""
    task = of.load(last)
    stored = torch.load(last, weights_only=True)
    assert not task.training
    assert task.spec == stored["odeflow"]["model"]
    assert all(torch.equal(value, task.state_dict()[name]) for name, value in stored["state_dict"].items())


def test_lightning_loads_it_too(last):
    """`load_from_checkpoint` has the same weights, in training mode, with replaced options, and checks the class."""
    task = Classification.load_from_checkpoint(last, solver=RK4(num_steps=7))
    assert task.training
    assert repr(task.flow.solver) == "RK4(num_steps=7)"
    torch.testing.assert_close(task.state_dict(), of.load(last).state_dict(), rtol=0, atol=0)
    with pytest.raises(of.CheckpointError, match=r"holds a Classification, not a Trajectory: use Classification\.load"):
        Trajectory.load_from_checkpoint(last)
    with pytest.raises(of.PluginError, match="no option 'solvr'"):
        of.Task.load_from_checkpoint(last, solvr=1)


@WITHOUT_COMMAND
def test_a_task_built_in_python_reloads(done):
    """A task of nested plugins, trained by Lightning's own Trainer, gives the same outputs from its checkpoint alone."""
    pl.seed_everything(3, verbose=False)
    task = Trajectory(
        MLP(3, hidden=(7, 5), activation="softplus"),
        Dopri5(1e-4),
        of.Adjoint(RK4(num_steps=2)),
        flow=of.FlowOptions(augment=1),
    )
    run = trainer()
    run.fit(task, datamodule=Spiral(observations=30, batch_size=4, t1=2.0))
    run.save_checkpoint("python.ckpt")
    t, y0 = torch.linspace(0, 1, 5), torch.randn(6, 2)
    loaded = of.load("python.ckpt")
    with torch.no_grad():
        assert torch.equal(loaded(y0, t), task.eval()(y0, t))
    assert isinstance(loaded.flow.gradient, of.Adjoint)
    assert loaded.flow.gradient.solver.control.num_steps == 2
    done(f"test --ckpt_path python.ckpt {QUIET}")
    assert Path("runs/test/version_0/metrics.csv").is_file()


@WITHOUT_COMMAND
def test_a_task_that_cannot_be_stored_keeps_its_weights(refused):
    """An argument that is no plain data costs the spec but not the training: a warning, the weights, a reason."""

    class Scaled(Trajectory):
        def __init__(self, dynamics: of.Dynamics, solver: of.Solver, scale=None) -> None:
            super().__init__(dynamics, solver)
            self.scale = scale

    task = Scaled(MLP(2), RK4(num_steps=1), scale=torch.tanh)
    run = trainer()
    run.fit(task, datamodule=Spiral(observations=30, batch_size=4, t1=2.0))
    with pytest.warns(UserWarning, match=r"keeps the weights, but not how.*scale is <.*tanh.*neither plain data"):
        run.save_checkpoint("weights.ckpt")
    stored = torch.load("weights.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, stored[name]) for name, value in task.state_dict().items())
    with pytest.raises(of.CheckpointError, match="the task's arguments were not plain data"):
        of.load("weights.ckpt")
    assert "does not say how its model was built" in refused("test --ckpt_path weights.ckpt")


def test_a_recipe_says_what_the_checkpoint_does_not(done, metrics, last):
    """Weights without a spec are evaluated with a recipe that describes their model."""
    contents = torch.load(last, weights_only=True)
    del contents["odeflow"]
    torch.save(contents, "weights.ckpt")
    done(f"validate -c digits/ode_net --model.dynamics.channels 4 --ckpt_path weights.ckpt {QUIET}")
    assert "val/loss" in metrics(Path("runs/digits/ode_net/version_0"))


# Resuming


@pytest.fixture
def resume(done, metrics, digits_run):
    """Resumes a copy of the run for a second epoch; gives the new run's folder, and both last checkpoints."""

    def run(words: str) -> tuple[Path, dict, dict]:
        shutil.copytree(digits_run.parents[2], "runs")
        last = Path("runs/digits/ode_net/version_0/checkpoints/last.ckpt")
        done(f"fit {words} --ckpt_path {last} --trainer.max_epochs 2")
        again = Path("runs/digits/ode_net/version_1")
        before, after = (torch.load(each, weights_only=True) for each in (last, again / "checkpoints/last.ckpt"))
        assert set(metrics(again)["epoch"]) == {1}
        assert after["global_step"] == 2 * before["global_step"] == 6
        return again, before, after

    return run


def test_a_run_is_resumed_with_its_recipe(resume, small):
    """`fit -c … --ckpt_path last.ckpt --trainer.max_epochs 2` goes on at epoch 1 with the optimizer's state."""
    _, before, after = resume(f"{small} --lr_scheduler ConstantLR")
    steps = [each["optimizer_states"][0]["state"][0]["step"].item() for each in (before, after)]
    assert steps == [3, 6]


def test_a_resumed_run_learns(resume):
    """A schedule over the steps of the run is told the new length: the rate is not that of the end all along."""
    _, before, after = resume("")
    name = "flow.dynamics.conv1.weight"
    assert not torch.equal(after["state_dict"][name], before["state_dict"][name])


def test_a_run_is_resumed_by_its_checkpoint_alone(resume, digits_run, by_name):
    """`fit --ckpt_path last.ckpt` takes all else from the run's config.yaml beside it: optimizer, trainer, data."""
    run, _, _ = resume("")
    first, second = (yaml.safe_load((each / "config.yaml").read_text()) for each in (digits_run, run))
    assert second.pop("ckpt_path").endswith("last.ckpt")
    assert second["trainer"].pop("max_epochs") == 2
    del first["ckpt_path"], first["trainer"]["max_epochs"]
    assert by_name(second) == by_name(first)


# What is wrong with a checkpoint is said


def _corrupt(path: Path, last: Path) -> None:
    contents = last.read_bytes()
    path.write_bytes(contents[: len(contents) // 2])


def _plain(path: Path, last: Path) -> None:
    run = trainer()
    run.strategy.connect(_Plain())
    run.save_checkpoint(path)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (_corrupt, "cannot be read as a checkpoint"),
        (lambda path, last: path.write_text("hello"), "cannot be read as a checkpoint"),
        (lambda path, last: path.touch(), "cannot be read as a checkpoint"),
        (lambda path, last: torch.save([1, 2], path), "it holds no keys"),
        (lambda path, last: torch.save({"state_dict": {}}, path), "not written by an odeflow Task"),
        (_plain, "not written by an odeflow Task"),
        (
            lambda path, last: torch.save({"odeflow": {"model": {"class_path": "a.Lost"}}}, path),
            "Lost (of a) is not registered",
        ),
        (lambda path, last: path.mkdir(), "there is no checkpoint bad.ckpt"),
        (lambda path, last: None, "there is no checkpoint bad.ckpt"),
    ],
    ids=["truncated", "text", "empty", "list", "weights", "lightning", "unknown plugin", "folder", "absent"],
)
def test_a_bad_checkpoint_is_named(refused, last, make, told):
    """A file that is no checkpoint of ours is refused in a line, by every command and by `odeflow.load`."""
    make(Path("bad.ckpt"), last)
    for words in ("test", "predict", "fit"):
        message = refused(f"{words} --ckpt_path bad.ckpt")
        assert "bad.ckpt" in message or "Lost" in message
        assert told in message
    with pytest.raises(of.OdeflowError):
        of.load("bad.ckpt")


def test_a_bad_checkpoint_beside_a_configuration_is_named(refused, digits_run):
    """Resuming reads the checkpoint before it believes the config.yaml beside it."""
    shutil.copytree(digits_run.parents[2], "runs")
    last = Path("runs/digits/ode_net/version_0/checkpoints/last.ckpt")
    last.write_text("hello")
    assert "cannot be read as a checkpoint" in refused(f"fit --ckpt_path {last}")


def test_a_checkpoint_runs_no_code(refused):
    """Nothing that is pickled in a checkpoint is executed."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, ("executed",)

    torch.save({"odeflow": Evil()}, "evil.ckpt")
    assert "cannot be read as a checkpoint" in refused("test --ckpt_path evil.ckpt")
    assert not Path("executed").exists()


ALL = (
    "fit --ckpt_path bad.ckpt",
    "fit -c digits/ode_net --weights bad.ckpt",
    "validate --ckpt_path bad.ckpt",
    "test --ckpt_path bad.ckpt",
    "predict --ckpt_path bad.ckpt",
    "sample --ckpt_path bad.ckpt --count 2",
    "export --ckpt_path bad.ckpt --output bad.safetensors",
    "plot statistics --ckpt_path bad.ckpt",
)
"""Everything that reads a checkpoint."""


def left() -> set[str]:
    """The files in the working directory and below it, but for records of runs that failed."""
    return {path.name for path in Path().rglob("*") if path.is_file()} - {"run.json"}


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("loops", [], "loops must be a mapping; got []"),
        ("loops/fit_loop/epoch_progress/current/ready", "x", "epoch_progress/current/ready must be a whole number"),
        ("callbacks/Faults/growth", {"count": 1}, "callbacks/Faults/growth has no 'least'"),
        ("callbacks/Randomness", {}, "callbacks/Randomness has no 'data'"),
        ("optimizer_states", [{"state": {}}], "optimizer_states[0] has no 'param_groups'"),
        ("state_dict", {"weight": 3}, "state_dict/weight must be a tensor; got 3"),
    ],
)
def test_a_checkpoint_of_another_structure_is_refused_before_anything_is_written(refused, last, place, value, told):
    """Whatever reads a checkpoint says what in it is wrong and what to do, and leaves no file."""
    contents = inside = torch.load(last, weights_only=True)
    *names, key = place.split("/")
    for name in names:
        inside = inside[name]
    inside[key] = value
    torch.save(contents, "bad.ckpt")
    before = left()
    for words in ALL:
        message = refused(words)
        assert f"bad.ckpt is not as odeflow writes it: {told}" in message.replace("loops/fit_loop/", ""), words
        assert message.endswith("Use another checkpoint, or train anew\n")
    with pytest.raises(of.CheckpointError, match="is not as odeflow writes it"):
        of.load("bad.ckpt")
    assert left() == before


def _without_a_moment(contents):
    del contents["optimizer_states"][0]["state"][0]["exp_avg"]


def _of_fewer_parameters(contents):
    contents["optimizer_states"][0]["param_groups"][0]["params"].pop()


def _of_a_textual_rate(contents):
    contents["lr_schedulers"][0]["warmup"] = "x"


def _of_two_optimizers(contents):
    contents["optimizer_states"] *= 2


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_without_a_moment, "optimizer_states[0] has a state of parameter 0"),
        (_of_fewer_parameters, "optimizer_states[0] has groups of ["),
        (_of_two_optimizers, "optimizer_states holds 2 optimizers; this run has 1"),
        (_of_a_textual_rate, "lr_schedulers[0]/warmup must be a number; got 'x'"),
    ],
)
def test_a_training_that_cannot_go_on_leaves_nothing(refused, done, digits_run, damage, told):
    """A state that is not of the run's optimizer is refused before its first step; an evaluation does not need it."""
    shutil.copytree(digits_run.parents[2], "runs")
    last = Path("runs/digits/ode_net/version_0/checkpoints/last.ckpt")
    contents = torch.load(last, weights_only=True)
    damage(contents)
    shutil.copy(last, last.with_name("last_but_one.ckpt"))
    torch.save(contents, last)
    message = refused(f"fit --ckpt_path {last} --trainer.max_epochs 2")
    assert f"{last} cannot be resumed: {told}" in message
    assert f"Use the one before it, {last.with_name('last_but_one.ckpt')}, or begin a new run" in message
    assert [path.name for path in Path("runs/digits/ode_net/version_1").rglob("*")] == ["run.json"]
    done(f"validate --ckpt_path {last} {QUIET}")


def test_weights_alone_cannot_be_resumed(refused, done, last):
    """A checkpoint of weights alone is evaluated, and refused by `fit`, which says how to begin with it."""
    contents = torch.load(last, weights_only=True)
    kept = ("state_dict", "odeflow", "pytorch-lightning_version", "loops")
    torch.save({key: contents[key] for key in kept}, "weights.ckpt")
    done(f"validate --ckpt_path weights.ckpt {QUIET}")
    message = refused("fit --ckpt_path weights.ckpt")
    assert "weights.ckpt holds weights, but no optimizer_states, lr_schedulers, which resuming a run needs" in message
    assert "--weights weights.ckpt" in message


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--model.dynamics.channels 6", "model.dynamics.channels is 4 in the file, 6 here"),
        (
            "--model.dynamics ResidualMLP --model.dynamics.dim 64",
            "model.dynamics is ConvNet in the file, ResidualMLP here",
        ),
        ("-c spiral", "model is Classification in the file, Trajectory here"),
        ("--model.flow.augment 2", "model.flow.augment is 0 in the file, 2 here"),
    ],
)
def test_a_checkpoint_of_another_model_says_what_differs(refused, last, words, told):
    """A model of other shapes or names than the checkpoint's weights is refused by what was chosen otherwise."""
    for command in ("fit --trainer.max_epochs 2", "test"):
        message = refused(f"{command} {words} --ckpt_path {last} {QUIET}")
        assert f"the weights of {last} do not fit the model: {told}. Give the model that they were trained" in message
    assert left() == set()


def test_weights_without_a_spec_are_refused_by_their_shapes(refused, last):
    """Where the file does not say its model, the first weights that do not fit are named."""
    contents = torch.load(last, weights_only=True)
    del contents["odeflow"]
    torch.save(contents, "weights.ckpt")
    message = refused(f"test -c digits/ode_net --model.dynamics.channels 6 --ckpt_path weights.ckpt {QUIET}")
    assert "do not fit the model: size mismatch for " in message


def test_a_recipe_may_name_a_checkpoint(done, refused, last):
    """`ckpt_path` in a recipe is as good as typed, and is checked alike."""
    Path("here.yaml").write_text(f"ckpt_path: {last}")
    Path("gone.yaml").write_text("ckpt_path: gone.ckpt")
    done(f"validate -c here.yaml {QUIET}")
    assert "there is no checkpoint gone.ckpt" in refused("validate -c gone.yaml")
