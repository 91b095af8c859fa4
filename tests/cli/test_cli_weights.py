"""Weights alone: `odeflow export` writes them, `--weights` and `odeflow.load` take them."""

import shutil
from pathlib import Path

import pytest
import torch

import odeflow as of
from odeflow.config import recipes
from odeflow.training import weights

BEST = "runs/digits/ode_net/version_0/checkpoints/best.ckpt"
QUIET = "--trainer.enable_progress_bar false"


@pytest.fixture
def exported(done, small) -> str:
    """A trained net's weights in a file."""
    done(f"fit {small}")
    assert "net.safetensors: " in done(f"export --ckpt_path {BEST} --output net.safetensors").out
    return "net.safetensors"


def test_weights_alone_build_their_model_again(exported):
    """`odeflow.load` makes of them the task that it makes of the checkpoint."""
    task, original = of.load(exported), of.load(BEST)
    assert not task.training
    assert task.spec == original.spec
    assert Path(exported).stat().st_mode == Path("runs/digits/ode_net/version_0/metrics.csv").stat().st_mode
    for name, value in original.state_dict().items():
        assert torch.equal(task.state_dict()[name], value)


def test_a_test_of_weights_is_that_of_their_checkpoint(done, exported):
    """`test -c RECIPE --weights FILE` reports what `test --ckpt_path` does."""
    channels = "--model.dynamics.channels 4"
    one = done(f"test -c digits/ode_net {channels} --weights {exported} {QUIET}").out
    assert one[one.index("test/accuracy") :] == (lambda out: out[out.index("test/accuracy") :])(
        done(f"test --ckpt_path {BEST} {QUIET}").out
    )


def test_training_goes_on_from_weights(done, small, exported):
    """`fit --weights` begins with them: with a step size of zero they stay what they are."""
    done(f"fit {small} --weights={exported} --optimizer.lr 1e-30")
    for name, value in of.load("runs/digits/ode_net/version_1/checkpoints/last.ckpt").state_dict().items():
        assert torch.equal(value, of.load(exported).state_dict()[name])


def test_training_begins_with_a_checkpoint(done, digits_run, small):
    """`--weights FILE.ckpt` fine-tunes: the checkpoint's weights, a new optimizer, and the first epoch."""
    last = digits_run / "checkpoints/last.ckpt"
    done(f"fit {small} --weights {last} --optimizer.lr 1e-30")
    tuned = torch.load("runs/digits/ode_net/version_0/checkpoints/last.ckpt", weights_only=True)
    for name, value in of.load(last).state_dict().items():
        assert torch.equal(tuned["state_dict"][name], value)
    assert (tuned["epoch"], tuned["global_step"]) == (0, 3)
    assert not tuned["run"]["ckpt_path"]
    assert tuned["run"]["options"]["weights"] == str(last)


@pytest.mark.parametrize("source", ["checkpoint", "weights"])
def test_weights_say_what_their_model_is(done, digits_run, source, brief):
    """Without a recipe, a checkpoint's run is repeated from its weights; exported weights need data."""
    words = f"--weights {digits_run}/checkpoints/last.ckpt --trainer.max_steps 1 --trainer.val_check_interval 1"
    if source == "weights":
        done(f"export --ckpt_path {digits_run}/checkpoints/last.ckpt --output net.safetensors")
        words = f"--weights net.safetensors --data Digits {brief} --trainer.max_steps 1"
    done(f"fit {words}")
    name = {"checkpoint": "digits/ode_net", "weights": "fit"}[source]
    spec = of.load(f"runs/{name}/version_0/checkpoints/last.ckpt").spec
    assert spec["init_args"]["dynamics"]["init_args"]["channels"] == 4


def test_a_model_that_begins_with_weights_is_trained(done, digits_run, small):
    """It is in training mode, and its weights change."""
    last = digits_run / "checkpoints/last.ckpt"
    done(f"fit {small} --weights {last}")
    after = of.load("runs/digits/ode_net/version_0/checkpoints/last.ckpt").state_dict()
    assert not all(torch.equal(after[name], value) for name, value in of.load(last).state_dict().items())


def test_a_recipe_brings_its_own_weights(done, exported, tmp_path):
    """`--weights` alone means `weights/<name>.safetensors` beside the recipe's file."""
    done(f"recipes copy digits/ode_net {tmp_path}/mine.yaml")
    (tmp_path / "weights").mkdir()
    shutil.copy(exported, tmp_path / "weights/mine.safetensors")
    assert recipes.weights(f"{tmp_path}/mine.yaml") == tmp_path / "weights/mine.safetensors"
    out = done(f"test -c {tmp_path}/mine.yaml --weights --model.dynamics.channels 4 {QUIET}").out
    assert "test/accuracy" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "test -c digits/ode_net --weights",
            "the recipe digits/ode_net has no weights of its own; give --weights FILE",
        ),
        ("test -c digits/ode_net --weights nix.safetensors", "there are no weights nix.safetensors"),
        ("test -c digits/ode_net --weights nix.ckpt", "there is no checkpoint nix.ckpt"),
        ("test --weights nix.ckpt", "there are no weights nix.ckpt"),
        ("test -c digits/ode_net --weights bad.safetensors", "bad.safetensors cannot be read as safetensors: "),
        ("test --weights --model Classification", "which weights? Give a recipe with weights by -c NAME"),
        ("test -c digits/ode_net --weights a --ckpt_path b", "there is no checkpoint b"),
        ("export --ckpt_path no.ckpt --output a.safetensors", "there is no checkpoint no.ckpt"),
        ("export --ckpt_path no.ckpt --output a.pt", "--output must end with .safetensors; got a.pt"),
        ("export --ckpt_path no.ckpt --output a.onnx", "got a.onnx. ONNX is written by torch.onnx.export: see docs"),
    ],
)
def test_mistakes_are_told_in_a_line(command, words, message):
    """What is missing, damaged or senseless is said, with what to do."""
    Path("bad.safetensors").write_bytes(b"nothing")
    outcome = command(words)
    assert outcome.status == 2
    assert message in outcome.err


def test_weights_of_another_model_are_refused(command, exported):
    """The names and shapes that do not fit are named; so is the conflict with a checkpoint."""
    outcome = command(f"test -c digits/ode_net --weights {exported}")
    assert "the weights of net.safetensors do not fit the model: " in outcome.err
    outcome = command(f"test -c digits/ode_net --weights {exported} --ckpt_path {BEST}")
    assert "give --weights or --ckpt_path, not both" in outcome.err


def test_foreign_safetensors_do_not_say_their_model():
    """A file without a spec cannot be loaded, though its weights may fit a model that is given."""
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, "foreign.safetensors")
    with pytest.raises(of.CheckpointError, match="does not say how its model was built: odeflow did not write it"):
        of.load("foreign.safetensors")
    Path("bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(of.CheckpointError, match=r"bad\.safetensors cannot be read as safetensors"):
        weights.read_spec("bad.safetensors")


def test_shared_weights_are_exported(done, brief):
    """A task whose parts share weights is exported and built again, though safetensors hold no tensor twice."""
    small = "--data.series 80 --data.batch_size 8 --model.bound.intensity_weight 1"
    done(f"fit -c latent/periodic {small} {brief}")
    checkpoint = "runs/latent/periodic/version_0/checkpoints/last.ckpt"
    done(f"export --ckpt_path {checkpoint} --output net.safetensors")
    one, other = of.load(checkpoint).state_dict(), of.load("net.safetensors").state_dict()
    assert one.keys() == other.keys()
    assert all(value.equal(other[name]) for name, value in one.items())
