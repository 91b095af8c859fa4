"""Loggers beside W&B, several at once, and those that cannot be used."""

import json
import os
from functools import wraps
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import wandb
import yaml

from odeflow.cli import loggers
from odeflow.config import recipes

QUIET = "--trainer.enable_progress_bar false --trainer.enable_model_summary false"
NEEDS = [
    ("WandbLogger", "wandb"),
    ("MLFlowLogger", "mlflow"),
    ("TensorBoardLogger", "tensorboard"),
    ("CometLogger", "comet-ml"),
]


@pytest.mark.parametrize(("name", "package"), NEEDS)
def test_a_missing_package_is_named(refused, monkeypatch, name, package):
    """A logger whose package is not installed says what to install, alone and in a list."""
    monkeypatch.setattr(loggers, "find_spec", lambda module: None)
    told = f"trainer.logger: {name} needs {package}: pip install {package}"
    assert told in refused(f"fit -c spiral --trainer.logger {name}")
    assert told in refused(f"fit -c spiral --trainer.logger [CSVLogger,{name}]")


@pytest.mark.parametrize(
    "fails", [wandb.errors.UsageError("No API key configured"), wandb.errors.CommError("no such host")]
)
@pytest.mark.filterwarnings("ignore")
def test_a_run_goes_on_without_wandb(done, brief, monkeypatch, fails):
    """Where W&B cannot be reached, the run says so and is logged offline."""
    for variable in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(variable, str(Path("home").absolute()))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "online")  # restored afterwards
    begin = wandb.init

    @wraps(begin)
    def unreachable(**options):
        if os.environ["WANDB_MODE"] != "offline":
            raise fails
        return begin(**options)

    monkeypatch.setattr(wandb, "init", unreachable)
    try:
        outcome = done(f"fit -c spiral {brief} --trainer.max_steps 1 --trainer.logger WandbLogger")
    finally:
        wandb.finish()
        wandb.teardown()
    assert f"note: W&B cannot be used ({fails}). This run is logged offline" in outcome.err
    assert Path("runs/spiral/version_0/checkpoints/last.ckpt").is_file()
    assert list(Path("runs/wandb").glob("offline-run-*"))


def test_tensorboard_has_metrics_and_figures(done, brief, draw_at):
    """Its events are in the run's folder, whose number it shares with the other loggers."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    draw_at("3_end")
    for version in range(2):
        done(f"fit -c spiral {brief} --trainer.logger TensorBoardLogger")
        run = Path(f"runs/spiral/version_{version}")
        assert (run / "metrics.csv").is_file()
        events = EventAccumulator(str(run)).Reload()
        assert {"train/loss", "val/loss", "nfe/forward"} <= set(events.Tags()["scalars"])
        assert events.Tags()["images"] == ["figures/phase_portrait"]


@pytest.mark.filterwarnings("ignore")  # of sqlalchemy
def test_mlflow_has_metrics_figures_and_tables(done, brief, draw_at):
    """A prediction is a child of its run, and has a table."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    draw_at("3_end")
    done(f"fit -c digits/ode_net --model.dynamics.channels 4 {brief} --trainer.logger MLFlowLogger")
    run = Path("runs/digits/ode_net/version_0")
    done(f"predict --ckpt_path {run}/checkpoints/last.ckpt --trainer.logger MLFlowLogger {QUIET}")
    client = mlflow.MlflowClient("sqlite:///runs/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'odeflow'")
    predicted, trained = client.search_runs([experiment.experiment_id])
    assert trained.data.tags["recipe"] == "digits/ode_net"
    assert {"val/accuracy", "train/loss"} <= set(trained.data.metrics)
    assert predicted.data.tags["mlflow.parentRunId"] == trained.info.run_id
    assert [each.path for each in client.list_artifacts(predicted.info.run_id)] == ["predictions.csv"]
    assert (run / "metrics.csv").is_file()


def test_the_newest_run_is_found_under_every_logger(done, brief):
    """A run's files are in runs/RECIPE/version_N whatever the logger, so that `--ckpt_path last` finds them."""
    Path("plain.py").write_text(
        "from lightning.pytorch.loggers import Logger\n\n\nclass Plain(Logger):\n    name = 'plain'\n    version = 7\n\n"
        "    def log_metrics(self, metrics, step=None):\n        pass\n\n    def log_hyperparams(self, params):\n        pass\n"
    )
    words = f"fit -c spiral --plugins plain.py --trainer.logger plain.Plain {brief}"
    done(words)
    assert "runs/spiral/version_0/checkpoints/last.ckpt" in done(f"{words} --ckpt_path last --trainer.max_epochs 2").err


# Sweeps


def test_sweeps_are_listed_but_no_recipes(done, refused):
    """`recipes list`, `show` and `copy` know them; `fit` does not."""
    assert {"sweeps/spiral", "sweeps/ode_net"} <= recipes.sweeps().keys()
    assert not recipes.sweeps().keys() & recipes.available().keys()
    assert "sweeps/spiral" in done("recipes list").out
    assert "run it by wandb sweep mine.yaml" in done("recipes copy sweeps/spiral mine.yaml").out
    assert Path("mine.yaml").read_text() == recipes.sweeps()["sweeps/spiral"].read_text()
    assert "no recipe or file named 'sweeps/spiral'" in refused("fit -c sweeps/spiral")


@pytest.mark.parametrize("name", recipes.sweeps())
def test_a_sweep_is_valid(done, name):
    """By W&B's own schema, where it is installed; its options are those of its recipe, and its metric the monitored one."""
    sweep = yaml.safe_load(recipes.sweeps()[name].read_text())
    package = find_spec("sweeps")  # its schema is read, since it cannot be imported beside a recent pydantic
    if package is not None and package.origin is not None:
        schema = json.loads(Path(package.origin).with_name("config").joinpath("schema.json").read_text())
        jsonschema.Draft7Validator(schema).validate(sweep)
    command = sweep["command"]
    assert command[:3] == ["${env}", "odeflow", "fit"]
    assert command[-1] == "${args}"
    recipe = command[command.index("-c") + 1]
    (monitor,) = [
        each["init_args"]
        for each in recipes.read(recipe)["trainer"]["callbacks"]
        if "ModelCheckpoint" in each["class_path"]
    ]
    goal = {"min": "minimize", "max": "maximize"}[monitor.get("mode", "min")]
    assert sweep["metric"] == {"name": monitor["monitor"], "goal": goal}
    ends = {option: each.get("values") or [each["min"], each["max"]] for option, each in sweep["parameters"].items()}
    for number in range(max(map(len, ends.values()))):
        values = " ".join(f"--{option}={several[number % len(several)]}" for option, several in ends.items())
        done(f"check {recipe} {values}")
