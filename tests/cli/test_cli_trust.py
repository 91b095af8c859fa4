"""Nothing is imported or called because a recipe, an option or a checkpoint names it: only what the user loads is."""

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import odeflow as of
from odeflow.cli.main import main
from odeflow.config.record import RunRecord
from odeflow.config.request import Request
from odeflow.training import checkpoint

NAMED = "module_named"
LEAVES_A_TRACE = "import os\nos.mkdir('executed')\n\n\ndef f(*args):\n    return 1.0\n"
OWN = """
import torch
from lightning.pytorch import Callback


class Lion(torch.optim.SGD):
    '''An optimizer of the user's.'''


class Counting(Callback):
    '''A callback of the user's.'''

    def on_train_batch_end(self, *args):
        with open('counted', 'a') as file:
            file.write('x')


def halved(epoch):
    return 0.5**epoch
"""


@pytest.fixture
def trap(monkeypatch: pytest.MonkeyPatch):
    """A module that leaves a folder behind when it is imported; afterwards it must not have been."""
    Path(f"{NAMED}.py").write_text(LEAVES_A_TRACE)
    monkeypatch.syspath_prepend(Path.cwd())
    yield NAMED
    sys.modules.pop(NAMED, None)
    assert not Path("executed").exists(), "the module was imported"


@pytest.mark.parametrize(
    "text",
    [
        "model: {class_path: module_named.f}",
        "model: {init_args: {solver: module_named.RK4}}",
        "model: {init_args: {dynamics: {class_path: module_named.Field, init_args: {dim: 2}}}}",
        "model: {init_args: {flow: {regularizers: [module_named.KineticEnergy]}}}",
        "data: {class_path: module_named.Series}",
        "optimizer: module_named.Adam",
        "optimizer: {class_path: Adam, init_args: {lr: {class_path: module_named.f}}}",
        "lr_scheduler: {class_path: module_named.StepLR, init_args: {step_size: 1}}",
        "lr_scheduler: {class_path: LambdaLR, init_args: {lr_lambda: module_named.f}}",
        "lr_scheduler: {class_path: LambdaLR, init_args: {lr_lambda: {class_path: module_named.f}}}",
        "trainer: {callbacks: module_named.EarlyStopping}",
        "trainer: {callbacks+: [{class_path: module_named.EarlyStopping}]}",
        "trainer: {callbacks: [{class_path: LambdaCallback, init_args: {on_fit_start: module_named.f}}]}",
        "trainer: {logger: [module_named.CSVLogger]}",
        "trainer: {logger: {class_path: module_named.CSVLogger}}",
        "trainer: {strategy: {class_path: module_named.DDPStrategy}}",
        "trainer: {strategy: {class_path: DDPStrategy, init_args: {ddp_comm_hook: module_named.f}}}",
        "trainer: {strategy: {class_path: FSDPStrategy, init_args: {auto_wrap_policy: [module_named.f]}}}",
        "trainer: {strategy: module_named.f}",
        "trainer: {accelerator: {class_path: module_named.CPUAccelerator}}",
        "trainer: {profiler: {class_path: module_named.SimpleProfiler}}",
        "trainer: {profiler: module_named.SimpleProfiler}",
        "trainer: {plugins: [module_named.f]}",
        "figures: {style: {class_path: module_named.f}}",
        "plugins: module_named",
        "--plugins: module_named",
    ],
)
def test_a_recipe_imports_nothing(refused, trap, brief, text):
    """Wherever a recipe names a module that is not loaded, it is refused in a line and not imported."""
    Path("mine.yaml").write_text(text)
    refused(f"fit -c spiral -c mine.yaml {brief}")


@pytest.mark.parametrize(
    "option",
    [
        "--optimizer module_named.Adam --optimizer Adam",  # the last word would be a good one
        "--optimizer.help module_named.Adam",
        "--trainer.callbacks.help module_named.X",
        "--model.help module_named.X",
        "--trainer.callbacks+ module_named.X",
        "--lr_scheduler LambdaLR --lr_scheduler.lr_lambda module_named.f",
        "--model.solver module_named.X --model.solver RK4 --model.solver.num_steps 4",
    ],
)
def test_an_option_imports_nothing(refused, trap, brief, option):
    """Nor does an option, not even one that a later word replaces or that asks for help."""
    refused(f"fit -c spiral {brief} {option}")


@pytest.mark.parametrize("words", ["test -c spiral --trainer.limit_test_batches 1", "test", "sample"])
def test_a_checkpoint_imports_nothing(command, trap, spiral_run, words):
    """A checkpoint whose specs and hyperparameters name a module is refused, or used without importing it."""
    contents = torch.load(spiral_run / "checkpoints/last.ckpt", weights_only=True)
    contents["odeflow"]["model"]["class_path"] = f"{NAMED}.f"
    contents["odeflow"]["data"]["class_path"] = f"{NAMED}.f"
    contents["hyper_parameters"] = {"_class_path": f"{NAMED}.f", "solver": f"{NAMED}.f"}
    contents["hparams_name"] = "kwargs"
    torch.save(contents, "evil.ckpt")
    with pytest.raises(of.PluginError, match="is not registered"):
        of.load("evil.ckpt")
    told = command(f"{words} --ckpt_path evil.ckpt")
    assert told.status == (0 if "-c" in words else 2), told
    assert "Traceback" not in told.err


def test_hyperparameters_of_a_checkpoint_do_not_beat_the_options(done, spiral_run):
    """What Lightning keeps as hyperparameters in a checkpoint changes nothing: specs and options say what is built."""
    contents = torch.load(spiral_run / "checkpoints/last.ckpt", weights_only=True)
    contents["hyper_parameters"] = {"solver": {"class_path": "Euler", "init_args": {"num_steps": 7}}}
    torch.save(contents, "other.ckpt")
    done("test -c spiral --ckpt_path other.ckpt --model.solver RK4 --model.solver.num_steps 3")
    (config,) = Path("runs").glob("**/config.yaml")
    assert "RK4" in config.read_text()
    assert "Euler" not in config.read_text()


def test_a_file_named_by_a_value_has_the_limits_of_recipes(refused, brief):
    """The parser reads a file in the place of a class; one of 10¹⁰ values behind aliases is refused as in a recipe."""
    lines = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}' if level else 'x'] * 10)}]" for level in range(10)]
    Path("bomb.yaml").write_text("\n".join(lines))
    refused(f"fit -c spiral --trainer.profiler bomb.yaml {brief}")


def test_what_the_user_loads_may_be_named(done, refused, brief):
    """Optimizers, callbacks and functions of a file are refused until the user loads it, by an error that says how."""
    Path("own_classes.py").write_text(OWN)
    options = (
        "--optimizer own_classes.Lion --optimizer.lr 0.1 --trainer.callbacks+ own_classes.Counting "
        "--lr_scheduler LambdaLR --lr_scheduler.lr_lambda own_classes.halved"
    )
    assert "load its file or module by --plugins" in refused(f"fit -c spiral {options} {brief}")
    done(f"fit -c spiral --plugins own_classes.py {options} {brief}")
    assert Path("counted").read_text() == "xxx"


def test_a_loaded_file_lends_no_name_to_what_it_imports(refused, brief):
    """A module that a loaded file imports is not what that file defines: `file.os.system` is refused."""
    Path("importing_os.py").write_text("import os\n")
    told = refused(
        f"fit -c spiral --plugins importing_os.py --lr_scheduler LambdaLR --lr_scheduler.lr_lambda importing_os.os.mkdir {brief}"
    )
    assert "posix.mkdir is not imported" in told or "importing_os.os.mkdir is not imported" in told


def test_a_value_of_any_type_is_not_built(refused):
    """The parser builds no class for an option of any type: specs of classes there stay plain data."""
    Path("odd.yaml").write_text(
        "trainer: {callbacks: [{class_path: ModelCheckpoint, dict_kwargs: {x: {class_path: os.mkdir, "
        "init_args: {path: executed}}}}]}"
    )
    refused("fit -c spiral -c odd.yaml")
    assert not Path("executed").exists()


def test_specs_are_read_without_building(spiral_run):
    """`checkpoint.specs` gives plain data alone, whatever class they name."""
    contents = torch.load(spiral_run / "checkpoints/last.ckpt", weights_only=True)
    contents["odeflow"]["model"]["class_path"] = "os.system"
    torch.save(contents, "evil.ckpt")
    assert checkpoint.specs("evil.ckpt")["model"]["class_path"] == "os.system"


class Executing:
    """What makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_checkpoints_are_never_unpickled(refused, spiral_run):
    """Neither an option nor Lightning's own argument reads a checkpoint by more than torch's weights_only."""
    contents = torch.load(spiral_run / "checkpoints/last.ckpt", weights_only=True)
    torch.save({**contents, "more": Executing()}, "evil.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.Checkpoints().load_checkpoint("evil.ckpt", weights_only=False)
    told = refused(f"fit -c spiral --ckpt_path {spiral_run / 'checkpoints/last.ckpt'} --weights_only false")
    assert "a checkpoint is read without executing code" in told
    assert not Path("executed").exists()


def test_a_checkpoint_is_not_unpacked_beyond_its_size(refused, spiral_run):
    """A checkpoint whose parts are compressed, as torch writes none, is refused before they are unpacked."""
    sound = zipfile.ZipFile(spiral_run / "checkpoints/last.ckpt")
    with zipfile.ZipFile("bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in sound.namelist():
            bomb.writestr(name, sound.read(name))
        bomb.writestr("archive/data/99", bytes(1 << 24))
    assert "torch wrote no such file" in refused("test --ckpt_path bomb.ckpt")


def test_a_spec_is_read_in_bounded_time(refused, spiral_run):
    """Lists that contain the same lists again and again have too many values, and the message ends."""
    contents = torch.load(spiral_run / "checkpoints/last.ckpt", weights_only=True)
    value = "x"
    for _ in range(12):
        value = [value] * 20
    contents["odeflow"]["model"]["init_args"]["x"] = value
    torch.save(contents, "evil.ckpt")
    assert "does not say how its model was built" in refused("test --ckpt_path evil.ckpt")


@pytest.mark.parametrize(
    "style", ["module_named.dark", "http://127.0.0.1:9/x.mplstyle", "programs.mplstyle", "nowhere.mplstyle"]
)
def test_a_style_of_figures_is_a_name_or_a_file(refused, trap, brief, style):
    """A style is not looked up in packages, which would be imported, nor on the network, and chooses no programs."""
    Path("programs.mplstyle").write_text("animation.ffmpeg_path: /tmp/program\ntext.usetex: True\n")
    assert "figures.style: " in refused(f"fit -c spiral --figures.style {style} {brief}")


def test_a_style_from_a_file_is_used(done, brief):
    """A file of options that start no programs is a style as before."""
    Path("mine.mplstyle").write_text("axes.facecolor: eeeeee\n")
    done(f"fit -c spiral --figures.style mine.mplstyle {brief}")


def test_weights_that_were_changed_are_noticed(done, refused, spiral_run):
    """A flipped bit in exported weights, which the format does not notice, is an error."""
    done(f"export --ckpt_path {spiral_run / 'checkpoints/last.ckpt'} --output w.safetensors")
    done("fit -c spiral --weights w.safetensors --trainer.fast_dev_run true --trainer.enable_progress_bar false")
    contents = bytearray(Path("w.safetensors").read_bytes())
    contents[-3] ^= 1
    Path("w.safetensors").write_bytes(contents)
    assert "its weights are not those that were written" in refused("fit -c spiral --weights w.safetensors")


def test_a_repository_starts_no_program(monkeypatch):
    """Where a repository's settings name programs for comparing files, a run asks Git for the commit alone."""
    for words in ("init -q", "-c user.name=x -c user.email=x commit -q --allow-empty -m x"):
        subprocess.run(("git", *words.split()), check=True)
    Path("program").write_text("#!/bin/sh\nmkdir -p executed\n")
    Path("program").chmod(0o755)
    subprocess.run(("git", "config", "core.fsmonitor", str(Path("program").resolve())), check=True)
    commit = RunRecord.begin("fit", Request()).commit
    assert len(commit) == 12
    assert not Path("executed").exists()


def test_the_runs_of_a_grid_take_no_module_from_the_working_directory(monkeypatch):
    """The processes of `odeflow grid` look for modules where this one does: a torch.py beside a recipe is none."""
    started = []
    monkeypatch.setattr(
        subprocess, "run", lambda words, **_: started.append(words) or subprocess.CompletedProcess(words, 1, "")
    )
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(Path.cwd()))])
    main(["grid", "spiral", "--seed_everything", "0,1"])
    assert [words[1:4] for words in started] == [["-P", "-m", "odeflow"]] * 2
    monkeypatch.syspath_prepend("")
    main(["grid", "spiral", "--seed_everything", "0,1"])
    assert started[-1][1:3] == ["-m", "odeflow"]
