"""Where the process itself is the point: what it imports, how it is started, and several that train together."""

import gc
import sys
from pathlib import Path

import pytest

import odeflow as of
from odeflow.cli.startup import importing

MODULE = (sys.executable, "-m", "odeflow")
SCRIPT = (str(Path(sys.executable).with_name("odeflow")),)

LOOSE = '''
import atexit
import hashlib
from pathlib import Path

from lightning.pytorch import Callback
from torch import distributed

import odeflow as of


class LooseHeun(of.RungeKutta):
    """Heun's method, in a loose file."""

    tableau = of.Tableau(order=2, c=(0, 1), a=((), (1,)), b=(1 / 2, 1 / 2))


class Witness(Callback):
    """Writes down what each process has at the end, and whether it is still connected when the interpreter shuts down."""

    def on_train_end(self, trainer, pl_module):
        weights = b"".join(weight.detach().numpy().tobytes() for weight in pl_module.parameters())
        file = Path(f"rank_{trainer.global_rank}_of_{trainer.world_size}.txt")
        told = f"{hashlib.sha256(weights).hexdigest()} {trainer.global_step} {distributed.is_initialized()}"
        atexit.register(lambda: file.write_text(f"{told} {distributed.is_initialized()}"))
'''


def test_simple_questions_need_no_torch(started, tmp_path):
    """`--version`, `--help`, `recipes` and the error for an unknown command import neither torch nor lightning."""
    code = (
        "import sys\nfrom odeflow.cli.main import main\n"
        "for words in (['--version'], ['--help'], [], ['recipes', 'list'], ['recipes', 'show', 'spiral'], "
        "['recipes', 'copy', 'spiral', 'a.yaml'], ['recipes', 'show', 'spirall'], ['fot'], "
        "['runs', 'list'], ['fit', '--help']):\n    main(words)\n"
        "heavy = {'torch', 'lightning', 'jsonargparse', 'matplotlib', 'wandb', 'sklearn', 'numpy'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    outcome = started(sys.executable, "-c", code, folder=tmp_path)
    assert outcome.stdout.splitlines()[-1] == "HEAVY []", outcome.stderr


def test_garbage_is_collected_after_the_imports():
    """It is suspended while a command's modules are imported, and not later."""
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()


KNOWN = (
    "import sys\nfrom odeflow.cli.main import main\n"
    "for words in (['plugins', 'list', 'solver'], ['plugins', 'show', 'MLP']):\n    main(words)\n"
    "print('TORCH', 'torch' in sys.modules)"
)


@pytest.mark.long
def test_plugins_are_listed_without_being_imported(started, tmp_path, monkeypatch):
    """From the second time on, until a file changes; a damaged file of the catalogue is written again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = (started(sys.executable, "-c", KNOWN, folder=tmp_path).stdout for _ in range(2))
    assert first.splitlines()[-1] == "TORCH True"
    assert second == first.replace("TORCH True", "TORCH False")
    assert "Dopri5" in second
    (file,) = tmp_path.rglob("plugins.json")
    file.write_text(file.read_text().replace('"key": "', '"key": "0'))
    monkeypatch.setenv("ODEFLOW_PLUGINS", str(tmp_path / "none"))
    again = started(sys.executable, "-c", KNOWN, folder=tmp_path)
    assert f"there is no plugin file, folder or module {tmp_path}/none" in again.stderr


@pytest.mark.parametrize(("words", "status"), [("recipes list", 0), ("recipes show spirall", 2), ("fot", 2)])
def test_both_ways_to_start_are_the_same(started, tmp_path, words, status):
    """`python -m odeflow` and `odeflow` say the same on both streams, and end with the same status."""
    one, other = (started(*start, *words.split(), folder=tmp_path) for start in (MODULE, SCRIPT))
    assert one.returncode == other.returncode == status
    assert (one.stdout, one.stderr) == (other.stdout, other.stderr)
    assert "Traceback" not in one.stderr


@pytest.fixture(scope="module")
def loose(tmp_path_factory) -> Path:
    """A file of plugins that is not installed."""
    file = tmp_path_factory.mktemp("loose") / "loose_heun.py"
    file.write_text(LOOSE)
    return file


def test_processes_keep_the_same_weights(started, tmp_path, loose, done, refused):
    """Two processes train the same weights, by a solver in a loose file that a reload needs too.

    Nothing of their connection is left to the shutdown of the interpreter, where it may abort.
    """
    words = (
        f"fit -c digits/ode_net --plugins {loose} --model.solver LooseHeun --model.solver.num_steps 2 "
        "--model.gradient Adjoint --model.dynamics.channels 4 --trainer.callbacks+=loose_heun.Witness "
        "--trainer.strategy ddp --trainer.accelerator cpu --trainer.devices 2 --trainer.max_epochs 1 "
        "--trainer.limit_train_batches 2 --trainer.limit_val_batches 1 --trainer.log_every_n_steps 1 "
        "--trainer.enable_progress_bar false --trainer.enable_model_summary false"
    )
    outcome = started(*MODULE, *words.split(), folder=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    one, other = ((tmp_path / f"rank_{rank}_of_2.txt").read_text().split() for rank in (0, 1))
    assert one == other
    assert one[1:] == ["2", "True", "False"]
    run = tmp_path / "runs/digits/ode_net/version_0"
    assert not (run.parent / "version_1").exists()
    last = run / "checkpoints/last.ckpt"
    if "loose_heun" not in sys.modules:
        assert "--plugins FILE" in refused(f"test --ckpt_path {last}")
    done(f"validate --plugins {loose} --ckpt_path {last}")
    assert of.load(last, plugins=[str(loose)]).flow.solver.control.num_steps == 2


@pytest.mark.slow  # tests/processes compares every task
@pytest.mark.parametrize("recipe", ["density/digits", "latent/periodic --data.batch_size 8"])
def test_processes_of_every_task_keep_the_same_weights(started, tmp_path, loose, recipe):
    """So do those that `odeflow` starts, of densities with noise and moving statistics and of series that are padded."""
    Path("undrawn.py").write_text("from odeflow.training.callbacks import Figures\nFigures._draw = lambda *_: None\n")
    words = (
        f"fit -c {recipe} --plugins {loose} --plugins undrawn.py --trainer.callbacks+=loose_heun.Witness "
        "--trainer.strategy ddp --trainer.devices 2 --trainer.max_epochs 1 --trainer.limit_train_batches 2 "
        "--trainer.limit_val_batches 1 --trainer.check_val_every_n_epoch 1 --trainer.log_every_n_steps 1 "
        "--trainer.enable_progress_bar false --trainer.enable_model_summary false"
    )
    outcome = started(*SCRIPT, *words.split(), folder=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    one, other = ((tmp_path / f"rank_{rank}_of_2.txt").read_text().split() for rank in (0, 1))
    assert one == other
