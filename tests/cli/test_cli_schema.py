"""`odeflow schema`, by which editors check recipes, and the completion of shells."""

import gc
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from odeflow.cli.main import OTHERS
from odeflow.cli.schema import recipe_schema
from odeflow.config import recipes


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft7Validator:
    schema = json.loads(json.dumps(recipe_schema()))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def test_every_recipe_is_valid(validator):
    """So are overlays, which lack the classes that they lie on."""
    for name in recipes.available():
        assert not [f"{name}: {error.message}" for error in validator.iter_errors(recipes.read(name))]


def test_a_configuration_is_valid(validator, digits_run):
    """A run's config.yaml, which has every option and the import paths of its classes, is a recipe as well."""
    assert not list(validator.iter_errors(recipes.read(str(digits_run / "config.yaml"))))


@pytest.mark.parametrize(
    ("text", "place", "told"),
    [
        ("model: {class_path: Trajectory, init_args: {solver: {class_path: RK4, init_args: {rtol: 1}}}}", "$.model.init_args.solver.init_args", "'rtol' was unexpected"),
        ("model: {class_path: Trajectory, init_args: {distance: mea}}", "$.model.init_args.distance", "is not one of"),
        ("model: {class_path: Trajectory, init_args: {flow: {t2: 1}}}", "$.model.init_args.flow", "'t2' was unexpected"),
        ("data: {class_path: Spirall}", "$.data.class_path", "Spirall"),
        ("trainer: {max_epoch: 3}", "$.trainer", "'max_epoch' was unexpected"),
        ("trainer: {callbacks+: [{class_path: EarlyStoping}]}", "$.trainer['callbacks+'][0].class_path", "EarlyStoping"),
        ("optimizer: {class_path: Adam, init_args: {lr: fast}}", "$.optimizer.init_args.lr", "fast"),
        ("figures: {format: jpg}", "$.figures.format", "is not one of"),
        ("modell: {}", "$", "'modell' was unexpected"),
    ],
)  # fmt: skip
def test_mistakes_are_found_where_they_are(validator, text, place, told):
    """The path of the error is that of the wrong option."""
    found = [jsonschema.exceptions.best_match([error]) for error in validator.iter_errors(recipes.parse(text))]
    assert any(place in _path(error) and told in error.message for error in found), [
        (_path(each), each.message) for each in found
    ]


def _path(error: jsonschema.ValidationError) -> str:
    return error.json_path


def test_the_schema_is_written(done, refused):
    """To a file or to the screen."""
    gc.collect()  # classes that other tests defined are plugins until they are collected
    done("schema --output recipe.json")
    assert json.loads(Path("recipe.json").read_text()) == json.loads(done("schema").out)
    assert "no option named 'outptu'" in refused("schema --outptu a.json")


SHELL = """
import os, sys
from odeflow.cli import completion
from odeflow.cli.main import main
from odeflow.plugin import catalogue
catalogue.cached("schema", completion._schema)
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.environ |= {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": "found", "_ARGCOMPLETE_IFS": " "}
        os.environ |= {"COMP_LINE": line[:-1], "COMP_POINT": str(len(line) - 1)}
        main()
    os.waitpid(child, 0)
    print(open("found").read(), flush=True)
"""


@pytest.fixture(scope="module")
def completed(tmp_path_factory):
    """What follows a line that is typed, according to a process that is forked for each."""
    pytest.importorskip("argcomplete")
    folder = tmp_path_factory.mktemp("shell")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    variables = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    with subprocess.Popen([sys.executable, "-c", SHELL], cwd=folder, env=variables, **pipes) as process:

        def words(line: str) -> set[str]:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return set(process.stdout.readline().split())

        yield words
        process.communicate()


@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("odeflow pl", ["plot", "plugins"], ["fit"]),
        ("odeflow fit -c lat", ["latent/spirals"], ["spiral"]),
        ("odeflow fit -c spiral --model.so", ["--model.solver", "--model.solver.rtol"], ["--model.gradient"]),
        ("odeflow fit -c spiral --model.solver ", ["Dopri5", "RK4"], ["Adjoint", "spiral"]),
        ("odeflow fit --model.solver=Dop", ["--model.solver=Dopri5"], ["--model.solver=RK4"]),
        (
            "odeflow fit -c spiral --model.solver RK4 --model.solver.",
            ["--model.solver.num_steps"],
            ["--model.solver.rtol"],
        ),
        (
            "odeflow fit -c spiral --model.d",
            ["--model.distance", "--model.dynamics.hidden"],
            ["--model.dynamics.channels"],
        ),
        ("odeflow fit -c spiral --model.distance ", ["mae", "mse", "nll"], ["Dopri5"]),
        ("odeflow fit -c spiral --model.flow.a", ["--model.flow.augment"], ["--model.flow.t0"]),
        ("odeflow fit -c spiral --trainer.max_", ["--trainer.max_epochs"], ["--trainer.min_epochs"]),
        ("odeflow fit -c spiral --figures.format ", ["png", "pdf", "svg"], []),
        ("odeflow plugins show Dopr", ["Dopri5", "Dopri8"], ["RK4"]),
        ("odeflow plugins list so", ["solver"], ["data"]),
        ("odeflow runs best spi", ["spiral"], ["spiral/version_0"]),
    ],
)
def test_words_are_completed(completed, line, wanted, unwanted):
    """Commands, recipes, plugins, and the options of what the line and its recipes name."""
    found = completed(line)
    assert set(wanted) <= found, found
    assert not set(unwanted) & found


def test_every_command_is_there():
    """What `odeflow --help` names is a function of its name."""
    for name in OTHERS:
        assert callable(getattr(importlib.import_module(f"odeflow.cli.{name}"), name))


def test_the_shell_is_told_how(done, refused, monkeypatch):
    """`odeflow completion SHELL` prints what the shell evaluates; without argcomplete, what to install."""
    assert "odeflow completion bash" in done("completion").out
    assert "takes one of bash" in refused("completion basch")
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    assert 'pip install "odeflow[completion]"' in refused("completion bash")
