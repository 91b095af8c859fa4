"""Several processes of a run, one of which dies: the others end soon, and say so."""

import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest

SOON = 30.0
"""Seconds within which all processes end."""
WORDS = (
    "fit -c digits/ode_net --model.dynamics.channels 4 --model.solver RK4 --model.solver.num_steps 2 "
    "--trainer.strategy ddp --trainer.accelerator cpu --trainer.max_epochs 1 --trainer.limit_train_batches 4 "
    "--trainer.limit_val_batches 2 --trainer.enable_progress_bar false --trainer.enable_model_summary false "
    "--plugins dying.py --trainer.callbacks+=dying.Dying"
)
DYING = '''
import os
import signal
import time
from pathlib import Path

from lightning.pytorch import Callback


class Dying(Callback):
    """Ends one of the processes at a moment, by a signal or an error, and notes when."""

    def __init__(self, rank: int, how: str, where: str):
        self.rank, self.how, self.where = rank, how, where

    def _die(self, trainer, where):
        if (trainer.global_rank, where) == (self.rank, self.where) and not trainer.sanity_checking:
            Path("died").write_text(str(time.time()))
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError("row 7 cannot be read")

    def setup(self, trainer, pl_module, stage):
        self._die(trainer, "setup")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:
            self._die(trainer, "train")

    def on_validation_batch_start(self, trainer, *args, **kwargs):
        self._die(trainer, "validation")

    def on_train_end(self, trainer, pl_module):
        self._die(trainer, "end")
'''


@pytest.fixture(autouse=True)
def _dying(_folder) -> None:
    """The callback that ends a process."""
    Path("dying.py").write_text(DYING)


def begun(words: str, **variables: str) -> "subprocess.Popen[str]":
    """A process of a run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = (sys.executable, "-m", "odeflow", *words.split())
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(
    ("rank", "how", "where"),
    [
        pytest.param(*each, marks=() if each == (1, "raise", "train") else pytest.mark.slow)
        for each in product((0, 1), ("kill", "raise"), ("setup", "train", "validation", "end"))
    ],
)
def test_the_others_end_soon(rank: int, how: str, where: str) -> None:
    """Whichever of two processes dies, however and whenever, the other ends within half a minute, with a word."""
    process = begun(f"{WORDS} --trainer.devices 2 {_options(rank, how, where)}")
    _, told = process.communicate(timeout=240)  # until all have closed the pipe
    assert _seconds() < SOON
    assert process.returncode != 0
    assert any(word in told for word in ("row 7 cannot be read", "has died", "has ended", "terminated with code"))


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "how"), [(0, "kill"), (1, "kill"), (0, "raise"), (1, "raise")])
def test_other_machines_end_soon(rank: int, how: str) -> None:
    """So it is with processes that were launched apart, as on several machines."""
    port = str(20_000 + os.getpid() % 20_000)
    words = f"{WORDS} --trainer.devices 1 --trainer.num_nodes 2 {_options(rank, how, 'train')}"
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [begun(words, NODE_RANK=str(node), **place) for node in (0, 1)]
    told = [each.communicate(timeout=240)[1] for each in processes]
    assert _seconds() < SOON
    assert processes[rank].returncode == (-signal.SIGKILL if how == "kill" else 1)
    assert processes[1 - rank].returncode == 2
    assert "error: another process of this run has ended" in told[1 - rank]


def _options(rank: int, how: str, where: str) -> str:
    return f"--trainer.callbacks.rank {rank} --trainer.callbacks.how {how} --trainer.callbacks.where {where}"


def _seconds() -> float:
    """Since the death."""
    return time.time() - float(Path("died").read_text())
