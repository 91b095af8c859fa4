"""`odeflow plugins new`: what it writes passes its own test, and runs."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from choice import few
from odeflow.cli.new import kinds

RULES = ["--isolated", "--select", "E,F,I,N,UP,B,W,D1,RUF", "--ignore", "RUF001,RUF002,RUF003,D107"]
SHORT = (
    "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1 "
    "--trainer.enable_progress_bar false --trainer.enable_model_summary false --trainer.enable_checkpointing false --trainer.log_every_n_steps 1"
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, done) -> dict[str, list[str]]:
    """What is printed by kind, of plugins in files and in packages, which lie in the folder `begun[""]`."""
    folder = tmp_path_factory.mktemp("begun")
    with contextlib.chdir(folder):
        printed = {kind: done(f"plugins new {kind} My{kind.title()}").out.splitlines() for kind in kinds()}
        for kind in kinds():
            done(f"plugins new {kind} My{kind.title()} --package")
    return printed | {"": [str(folder)]}


def test_every_kind_can_be_begun(done):
    """Of odeflow's own kinds and those of its tasks, none is left out."""
    listed = {row.split()[0] for row in done("plugins list").out.splitlines()[1:] if row[:1].strip()}
    assert {
        kind
        for kind in listed
        if kind in ["solver", "dynamics", "gradient", "divergence", "regularizer", "task", "data"]
    } <= {*kinds()}
    assert {"base", "stem", "head", "encoder", "likelihood", "interpolation"} <= {*kinds()}


@pytest.mark.long
def test_their_own_tests_pass(begun):
    """Those of all files, as a user runs them."""
    (folder,) = begun[""]
    files = sorted(map(str, Path(folder).glob("test_*.py")))
    assert len(files) == len(kinds())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.skipif(shutil.which("ruff") is None, reason="ruff comes with the extra dev")
def test_they_are_tidy(begun):
    """Ruff finds nothing in files and packages, at its own line length, and would format nothing."""
    (folder,) = begun[""]
    roots = [folder, *map(str, Path(folder).glob("odeflow-*"))]
    for root in roots:
        inside = ["."] if root != folder else sorted(file.name for file in Path(folder).glob("*.py"))
        for command in (["check", *RULES], ["format", "--check", "--isolated"]):
            ended = subprocess.run(["ruff", *command, *inside], cwd=root, capture_output=True, text=True, check=False)
            assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("kind", few(kinds(), ["solver", "dynamics", "gradient", "task", "data", "interpolation"]))
def test_the_printed_command_runs(done, begun, monkeypatch, kind):
    """What `plugins new` says to type next trains with the plugin."""
    monkeypatch.chdir(begun[""][0])
    words = begun[kind][-1].split()
    assert words[0] == "odeflow"
    out = done(f"{' '.join(words[1:])} {SHORT if words[1] == 'fit' else ''}").out
    if kind == "interpolation":
        assert "an interpolation plugin: my_interpolation.MyInterpolation" in out
    else:
        (run,) = Path("runs").rglob("config.yaml")
        assert f"my_{kind}.My{kind.title()}" in run.read_text()
        shutil.rmtree("runs")


@pytest.mark.parametrize("kind", sorted({*kinds()} - {"interpolation"}))
def test_the_recipe_of_a_package_is_valid(done, begun, kind):
    """It builds, with the plugin."""
    package = Path(begun[""][0]) / f"odeflow-my-{kind}"
    recipe = package / f"odeflow_my_{kind}/recipes/example.yaml"
    assert f"My{kind.title()}" in recipe.read_text()
    assert recipe.read_text().startswith("# ")
    plugin = package.parent / f"my_{kind}.py"
    assert str(recipe) in done(f"check {recipe} --plugins {plugin}").out


@pytest.mark.long
def test_a_package_is_installed(begun, tmp_path):
    """Once it is installed, its plugin and its recipe are found, and its test passes."""
    package = Path(begun[""][0]) / "odeflow-my-solver"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    ended = subprocess.run([*pip, "--target", tmp_path, package], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    code = (
        "import sys, pytest\nfrom odeflow.cli.main import main\n"
        "sys.exit(main(['check', 'my_solver/example']) or pytest.main(['-q', '-p', 'no:cacheprovider', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", code, str(package)]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "my_solver/example: Trajectory" in ended.stdout
    assert "passed" in ended.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("solvr Mine", "no kind of plugin named 'solvr'. Did you mean solver?"),
        ("solver mine", "a plugin is called by its class, such as MySolver; got 'mine'"),
        ("solver Dopri5", "there is a solver Dopri5 already: odeflow_solvers.Dopri5; choose another name"),
        ("solver Twice", "twice.py exists already; choose another name or folder"),
    ],
)
def test_mistakes_are_told(refused, words, told):
    """Nothing is overwritten."""
    Path("twice.py").write_text("precious")
    assert told in refused(f"plugins new {words}")
    assert Path("twice.py").read_text() == "precious"


# Plugins that are not quite plugins


MISTAKES = '''
import odeflow as of
from lightning.pytorch import LightningDataModule
from odeflow_data import Spiral
from odeflow_tasks import Trajectory


class Unfinished(of.RungeKutta):
    """Without its tableau."""


class Mistyped(of.Dynamics):
    """With forwrd."""

    def forwrd(self, t, y):
        return -y


class Careless(of.Dynamics):
    """Without super().__init__()."""

    def __init__(self, dim):
        self.width = dim

    def forward(self, t, y):
        return -y


class CarelessData(Spiral):
    """Likewise."""

    def __init__(self):
        self.dim = 2


class Silent(Trajectory):
    """Whose loss lacks its return."""

    def loss(self, batch, stage):
        super().loss(batch, stage)


class Vector(Trajectory):
    """Whose loss is not reduced."""

    def loss(self, batch, stage):
        return super().loss(batch, stage).expand(3)


class Scalar(of.Regularizer):
    """Whose rate is a mean over the batch."""

    def rate(self, field, t, y, f):
        return f.square().mean()


class Foreign(LightningDataModule):
    """Of Lightning."""
'''


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory) -> Path:
    """A file of them."""
    file = tmp_path_factory.mktemp("mistakes") / "mistakes.py"
    file.write_text(MISTAKES)
    return file


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--model.solver Unfinished", "the class mistakes.Unfinished lacks tableau"),
        ("--model.dynamics Mistyped", "the class mistakes.Mistyped lacks forward (it has forwrd)"),
        ("--model.dynamics Careless", "Careless.__init__ must call super().__init__() first, the constructor of"),
        ("--data CarelessData", "CarelessData.__init__ must call super().__init__() first, the constructor of Spiral"),
        (
            "--model Silent --model.dynamics MLP --model.solver RK4 --model.solver.num_steps 2",
            "Silent.loss must return one number, a tensor of shape (); got None: is a return missing?",
        ),
        (
            "--model Vector --model.dynamics MLP --model.solver RK4 --model.solver.num_steps 2",
            "Vector.loss must return one number, a tensor of shape (); got a tensor (3,); take its mean",
        ),
        (
            "--model.flow.regularizers+ Scalar --model.flow.regularizers.weight 1",
            "the rate of Scalar must have one value for each of the 20 samples, shape (20,); got a tensor ()",
        ),
        ("--data Foreign", "mistakes.Foreign is a LightningDataModule, but no odeflow.DataModule; subclass"),
    ],
)
def test_what_is_not_quite_a_plugin_is_told(refused, mistakes, words, told):
    """One line says what is missing."""
    assert told in refused(f"fit -c spiral --plugins {mistakes} {SHORT} {words}")


def test_a_list_says_what_is_missing(done, mistakes):
    """Classes of a file that are not yet plugins are named below the list, and base classes are not."""
    out = " ".join(done(f"plugins list solver --plugins {mistakes}").out.split())
    assert "the class mistakes.Unfinished is no solver plugin yet: it lacks tableau" in out
    assert "the class mistakes.Mistyped is no dynamics plugin yet: it lacks forward (it has forwrd)" in out
    assert "mistakes.Silent" not in out
