"""The example package, built and installed as a third party's, and used from outside the project."""

import subprocess
import sys

import pytest

NUMERICS = """
import warnings; warnings.simplefilter("error")
import torch, odeflow as of
from odeflow_ralston import Hamiltonian, Ralston3

def error(steps):  # dy/dt = −2 t y², y(0) = 1: nonlinear and time-dependent, y(t) = 1 / (1 + t²)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    y = of.solve(lambda t, y: -2 * t * y**2, torch.ones(1, 1, dtype=torch.float64), times,
                 solver=Ralston3(num_steps=steps), gradient=of.Backprop()).y
    return abs(y[-1].item() - 0.5)

field = Hamiltonian(dim=4).double()
y = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
t = torch.zeros((), dtype=torch.float64)
slope = field(t, y)
(energy_slope,) = torch.autograd.grad(field.energy(y).sum(), y)
assert (slope * energy_slope).sum(1).abs().max() < 1e-12
with torch.no_grad():
    assert torch.equal(field(t, y), slope)
with torch.inference_mode():
    assert torch.equal(field(t, y.clone()), slope)
assert torch.autograd.gradcheck(lambda y: field(t, y), y)

lossy = Hamiltonian(dim=4, dissipative=True).double()
def gradients(gradient):
    loss = of.Flow(lossy, Ralston3(num_steps=3), gradient)(y).square().sum()
    return torch.autograd.grad(loss, (y, *lossy.parameters()), allow_unused=True)
for plain, replayed in zip(gradients(of.Backprop()), gradients(of.Checkpointed()), strict=True):
    assert (plain is None) == (replayed is None)
    assert plain is None or torch.allclose(plain, replayed, rtol=1e-10, atol=1e-12)

def refused(call):
    try:
        call()
    except of.OdeflowError as problem:
        return str(problem)

print(error(100) / error(200))
print(refused(lambda: Hamiltonian(dim=3)))
print(refused(lambda: field(t, y[:, :2])))
"""
LOAD = """
import odeflow
task = odeflow.load({!r})
print(type(task.flow.solver).__module__, type(task.flow.solver).__name__, task.flow.solver.control.step_size)
"""


@pytest.fixture(scope="module")
def site(examples, tmp_path_factory):
    """A folder with the example package installed in it from its wheel."""
    dist, site = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")

    def python_m(*words):
        ended = subprocess.run([sys.executable, "-m", *map(str, words)], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    python_m("build", "--wheel", "--no-isolation", "--outdir", dist, examples / "odeflow-ralston")
    (wheel,) = dist.glob("*.whl")
    python_m("pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    return site


@pytest.fixture(scope="module")
def checkpoint(site, shell, tmp_path_factory):
    """A checkpoint of the package's recipe, trained by its name for two batches."""
    folder = tmp_path_factory.mktemp("run")
    short = "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.log_every_n_steps 1"
    data = "--data.observations 20 --data.t1 0.5"
    (ended,) = shell(folder, PYTHONPATH=site).session(["fit", "-c", "ralston/spiral", *short.split(), *data.split()])
    assert ended.status == 0, ended.err
    (best,) = folder.glob("runs/ralston/spiral/version_0/checkpoints/best.ckpt")
    return best


def test_is_found_and_computes_what_it_says(site, shell, tmp_path):
    """Installing the package is enough for its plugins and recipe to be listed, and the plugins keep their laws.

    The error of a method of order 3 falls to an eighth at half the step; a Hamiltonian field is orthogonal to its
    energy's gradient, and the same in every mode of autograd; replayed gradients are autograd's.
    """
    plugins, recipes, numerics = shell(tmp_path, PYTHONPATH=site).session(
        ["plugins", "list"], ["recipes", "list"], NUMERICS
    )
    assert plugins.status == recipes.status == 0
    rows = [line.split(maxsplit=2) for line in plugins.out.splitlines()]
    assert ["solver", "Ralston3"] in [row[:2] for row in rows]
    assert ["dynamics", "Hamiltonian"] in [row[:2] for row in rows]
    (row,) = (line.split(maxsplit=1) for line in recipes.out.splitlines() if line.startswith("ralston/spiral"))
    assert row[1].startswith("A learned energy")

    assert numerics.status == 0, numerics.err
    ratio, odd, narrow = numerics.out.splitlines()
    assert 7.6 < float(ratio) < 8.4
    assert odd == "Hamiltonian: dim must be even, half q and half p; got 3"
    assert narrow == "Hamiltonian(dim=4) takes states (…, 4); got (3, 2)"


def test_its_own_tests_pass(site, examples, shell, tmp_path):
    """The package runs odeflow's conformance tests on its plugins, as a third party does."""
    words = ["-q", "-p", "no:cacheprovider", str(examples / "odeflow-ralston" / "tests")]
    (ended,) = shell(tmp_path, PYTHONPATH=site).session(f"import pytest\nraise SystemExit(pytest.main({words}))")
    assert ended.status == 0, ended.out
    assert "passed" in ended.out


def test_checkpoint_is_a_recipe(site, checkpoint, shell, tmp_path):
    """`odeflow test --ckpt_path FILE` needs nothing else where the package is installed, and neither does `load`."""
    loaded, tested = shell(tmp_path, PYTHONPATH=site).session(
        LOAD.format(str(checkpoint)), ["test", "--ckpt_path", str(checkpoint)]
    )
    assert loaded.status == 0, loaded.err
    assert loaded.out.split() == ["odeflow_ralston.ralston3", "Ralston3", "0.05"]
    assert tested.status == 0, tested.err
    assert "test/loss" in tested.out


def test_checkpoint_without_its_package_says_what_is_missing(checkpoint, shell, tmp_path):
    """Where the package is not installed the error names the plugin and the remedy, in a line."""
    tested, loaded = shell(tmp_path).session(["test", "--ckpt_path", str(checkpoint)], LOAD.format(str(checkpoint)))
    assert tested.status == 2
    assert tested.err.startswith("error: ")
    assert "Traceback" not in tested.err
    assert len(tested.err.splitlines()) <= 3
    assert loaded.status == 1
    for message in (tested.err, loaded.err.splitlines()[-1]):
        assert "Ralston3" in message or "Hamiltonian" in message
        assert "odeflow_ralston" in message
        assert "nstall its package" in message
        assert "--plugins FILE" in message
