"""What a run leaves, says and ends with when its disk is full, its files are damaged, its job is over or its numbers fail."""

import errno
import math
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from odeflow.cli import explain
from odeflow.training.files import keep

RUN = Path("runs/digits/ode_net")
QUIET = (
    "--trainer.max_epochs 2 --trainer.limit_train_batches 4 --trainer.limit_val_batches 1 --trainer.log_every_n_steps 1 "
    "--trainer.enable_progress_bar false --trainer.enable_model_summary false"
)
DIGITS = f"-c digits/ode_net --model.dynamics.channels 4 --model.solver RK4 --model.solver.num_steps 2 {QUIET}"
BREAKING = '''
import resource
import signal

from lightning.pytorch import Callback


class Signalled(Callback):
    """Signals its own process at a step."""

    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            signal.raise_signal(self.number)


class FullDisk(Callback):
    """From the second epoch on no file can grow beyond 20 kB."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

'''

SPOILT = '''
import os

import torch
from torch import nn

import odeflow as of


class Spoilt(of.Dynamics):
    """A linear field that is nan at a call in training; only in the second of two processes if the number is negative."""

    def __init__(self, dim: int, at: int) -> None:
        super().__init__()
        self.linear, self.width, self.calls = nn.Linear(dim, dim), dim, 0
        self.at = abs(at) if at > 0 or os.environ.get("LOCAL_RANK") == "1" else -1

    def forward(self, t, y):
        self.calls += self.training
        return self.linear(y) * (torch.nan if self.training and self.calls == self.at else 0.1)
'''


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory) -> str:
    """A training of a field that is nan once, in a loose file, but for the number of the call."""
    file = tmp_path_factory.mktemp("loose") / "spoilt.py"
    file.write_text(SPOILT)
    solver = "--model.solver RK4 --model.solver.num_steps 2 --data.observations 50"
    return f"fit -c spiral {solver} {QUIET} --plugins {file} --model.dynamics Spoilt --model.dynamics.at"


@pytest.fixture(autouse=True)
def _breaking(_folder) -> None:
    """The plugins that break a run."""
    Path("breaking.py").write_text(BREAKING)


def read(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def damage(path: Path) -> None:
    """Flips a bit of a weight."""
    contents = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["state_dict"]["flow.dynamics.conv1.weight"]
    contents[contents.index(weight.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(contents)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(done, refused, digits_run):
    """`--ckpt_path last` takes the newest whole checkpoint, and says so; named in full, a damaged one is an error."""
    shutil.copytree(digits_run.parents[2], "runs")
    folder = RUN / "version_0/checkpoints"
    keep(folder / "last.ckpt", folder / "whole.ckpt")
    shutil.copy(folder / "last.ckpt", folder / "last_but_one.ckpt")
    damage(folder / "last.ckpt")
    words = "fit -c digits/ode_net --model.dynamics.channels 4 --trainer.max_epochs 1"
    told = done(f"{words} --ckpt_path last").err
    assert f"note: {folder}/last.ckpt is damaged: the checksum" in told
    assert f"checkpoint: {folder}/last_but_one.ckpt" in told
    assert "last.ckpt is damaged" in refused(f"{words} --ckpt_path {folder}/last.ckpt")
    shutil.rmtree(RUN / "version_1")
    damage(folder / "last_but_one.ckpt")
    assert "so are all that were written before" in refused(f"{words} --ckpt_path last")


def test_a_run_keeps_its_last_two_checkpoints(done):
    """Each is whole, and the older one is that of the steps before."""
    done(f"fit {DIGITS} --saving.every_n_train_steps 3")
    folder = RUN / "version_0/checkpoints"
    steps = [torch.load(folder / f"{name}.ckpt", weights_only=True)["global_step"] for name in ("last_but_one", "last")]
    assert steps == [6, 8]
    assert {file.name for file in folder.iterdir()} == {"best.ckpt", "last.ckpt", "last_but_one.ckpt"}


def test_a_full_disk_ends_a_run(command):
    """With a line and status 2; the last good checkpoint is there, and no half of another."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        outcome = command(f"fit {DIGITS} --plugins breaking.py --trainer.callbacks+=breaking.FullDisk")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1].startswith("error: ")
    assert ".ckpt cannot be written: " in outcome.err.splitlines()[-1]
    folder = RUN / "version_0/checkpoints"
    assert {file.name for file in folder.iterdir()} <= {"best.ckpt", "last.ckpt", "last_but_one.ckpt"}
    assert read(RUN / "version_0")["global_step"] == 4


@pytest.fixture
def job(monkeypatch, tmp_path) -> Path:
    """A job of SLURM with one process, in which `scontrol` notes how it is called."""
    variables = {"NTASKS": 1, "JOB_ID": 77, "JOB_NAME": "train", "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    called, script = tmp_path / "called.txt", tmp_path / "bin/scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    return called


def test_a_job_is_queued_again_and_goes_on(command, done, job, monkeypatch):
    """SIGUSR1 ends the step, saves and requeues; the same command then goes on where this job was, and no other one."""
    words = f"fit {DIGITS} --plugins breaking.py"
    signalled = "--trainer.callbacks+=breaking.Signalled --trainer.callbacks.step 5 --trainer.callbacks.number 10"
    done(words)
    outcome = command(f"{words} {signalled}")
    assert outcome.status == 138, outcome.err
    assert job.read_text() == "requeue 77\n"
    assert read(RUN / "version_1")["global_step"] == 6
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    done(words)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert f"checkpoint: {RUN}/version_1/checkpoints/last.ckpt" in done(f"{words} {signalled}").err
    one, other = (read(RUN / f"version_{number}") for number in (0, 3))
    assert all(one["state_dict"][name].equal(value) for name, value in other["state_dict"].items())


def test_a_failed_step_ends_a_run(refused, spoilt):
    """With a line that says where, and the checkpoint of the epoch before."""
    told = refused(f"{spoilt} 100")
    assert "error: epoch 1, batch " in told
    assert "the state is not finite" in told
    assert read(Path("runs/spiral/version_0"))["epoch"] == 0


@pytest.mark.filterwarnings("ignore:epoch .* the state is not finite")
def test_a_failed_step_is_counted(done, metrics, spoilt):
    """It is left out or rewound, as options or a recipe say; the log has the number."""
    done(f"{spoilt} 100 --faults.on_nonfinite skip")
    assert metrics(Path("runs/spiral/version_0"))["faults/skipped"] == [1]
    Path("rewinding.yaml").write_text("faults: {on_nonfinite: rewind, rewind_steps: 2}")
    done(f"{spoilt} 100 -c rewinding.yaml")
    assert metrics(Path("runs/spiral/version_1"))["faults/rewound"] == [1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--faults.on_nonfinite ignore", "faults.on_nonfinite"),
        ("--faults.evaluations 0", "faults.evaluations must be positive; got 0"),
        ("--saving.every_n_train_steps 0", "saving.every_n_train_steps must be positive; got 0"),
        ("--model.flow.fallback_steps 0", "fallback_steps must be positive; got 0"),
    ],
)
def test_options_are_checked(refused, words, message):
    """An option that is out of range is named."""
    assert message in refused(f"fit -c spiral {words}")


def test_a_full_disk_is_named_by_whoever_meets_it(refused, monkeypatch):
    """A logger that cannot write ends the run with a line, too."""

    def full(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.csv")

    monkeypatch.setattr(CSVLogger, "save", full)
    assert "error: the disk is full: [Errno 28] No space left on device: 'metrics.csv'" in refused(f"fit {DIGITS}")


@pytest.mark.long
def test_processes_skip_together(started, tmp_path, spoilt):
    """A field that is nan in one of two processes costs the step of both, and they go on."""
    words = f"{spoilt} -100 --faults.on_nonfinite skip --trainer.strategy ddp --trainer.devices 2"
    outcome = started(sys.executable, "-m", "odeflow", *words.split(), folder=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert "The step is skipped; so far in this run: 1" in outcome.stderr
    assert read(tmp_path / "runs/spiral/version_0")["callbacks"]["Faults"]["counts"]["skipped"] == 1


STRAYING = '''
import os

import torch

from odeflow_dynamics import MLP


class Straying(MLP):
    """A net that is nan in the first batch of validation of the second of two processes."""

    calls = 0

    def forward(self, t, y):
        self.calls += not self.training
        bad = not self.training and self.calls == 1 and os.environ.get("LOCAL_RANK") == "1"
        return super().forward(t, y) * (torch.nan if bad else 1.0)
'''


@pytest.mark.long
def test_processes_omit_batches_of_validation_together(started, tmp_path, metrics):
    """A solve that fails in validation in one of two processes costs the batch of both; the others have metrics."""
    Path("straying.py").write_text(STRAYING)
    words = "fit -c density/two_moons --plugins straying.py --model.dynamics Straying --model.dynamics.dim 2 "
    words += "--model.dynamics.hidden [8] --model.solver RK4 --model.solver.num_steps 2 --faults.on_nonfinite skip "
    words += (
        "--data.batch_size 10 --data.val_size 60 --trainer.check_val_every_n_epoch 1 --trainer.num_sanity_val_steps 0 "
    )
    words += f"{QUIET} --trainer.max_epochs 1 --trainer.limit_train_batches 1 --trainer.limit_val_batches 3 "
    words += "--trainer.strategy ddp --trainer.accelerator cpu --trainer.devices 2"
    outcome = started(sys.executable, "-m", "odeflow", *words.split(), folder=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    run = tmp_path / "runs/density/two_moons/version_0"
    assert read(run)["callbacks"]["Faults"]["counts"]["omitted"] == 1
    found = metrics(run)
    assert found["faults/omitted"] == [1]
    assert math.isfinite(found["val/loss"][-1])


BLOWING = '''
from torch import nn

import odeflow as of


class Blowing(of.Dynamics):
    """dy/dt = 30 + 10 y², which has no solution after t = 0.1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear, self.width = nn.Linear(dim, dim), dim

    def forward(self, t, y):
        return 30 + 10 * y.square() + 0 * self.linear(y)
'''


@pytest.mark.filterwarnings("ignore:epoch", "ignore:.*could not find the monitored key")
def test_solves_that_fail_before_training_say_so(done, refused, draw_at, tmp_path):
    """The check before training is named with the option that leaves it out; figures are missing, and training goes on."""
    file = tmp_path / "blowing.py"
    file.write_text(BLOWING)
    fit = f"fit -c spiral {QUIET} --plugins {file} --model.dynamics Blowing"
    assert "in the check before training, which --trainer.num_sanity_val_steps 0 leaves out: " in refused(fit)
    unchecked = f"{fit} --trainer.num_sanity_val_steps 0"
    assert "epoch 0, batch 0 (step 0): " in (said := refused(unchecked))
    assert said.rstrip().endswith("go on without such steps by --faults.on_nonfinite skip or rewind")
    skipped = f"{unchecked} --faults.on_nonfinite skip --trainer.limit_val_batches 0"
    draw_at("3_end")
    with pytest.warns(UserWarning, match="the figures 3_end are missing, as a solve failed: "):
        done(skipped)


def test_a_full_memory_is_named():
    """A run that ran out of memory says what to change."""
    with pytest.raises(MemoryError) as raised:
        raise MemoryError("4 GiB")
    told = explain.failed(raised.value)
    assert told == "the memory is full; use smaller batches or a smaller model (4 GiB)"


def test_a_file_is_copied_where_there_are_no_hard_links(tmp_path, monkeypatch):
    """What is kept is a file of its own then, with the same contents."""

    def missing(self, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", missing)
    (tmp_path / "last.ckpt").write_bytes(b"weights")
    keep(tmp_path / "last.ckpt", tmp_path / "last_but_one.ckpt")
    assert (tmp_path / "last_but_one.ckpt").read_bytes() == b"weights"
    assert not (tmp_path / "last_but_one.ckpt").samefile(tmp_path / "last.ckpt")
