"""The life of a run: what is saved when, how it ends when it is told to, and that it goes on as if it had not."""

import csv
import resource
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import odeflow as of
from choice import few
from odeflow.training.checkpoint import Checkpoints

BRIEF = (
    "--trainer.max_epochs 2 --trainer.limit_train_batches 4 --trainer.limit_val_batches 3 --trainer.log_every_n_steps 1 "
    "--trainer.enable_progress_bar false --trainer.enable_model_summary false --plugins ending.py"
)
DIGITS = f"-c digits/ode_net --model.dynamics.channels 4 {BRIEF}"
COARSE = "--model.solver RK4 --model.solver.num_steps 2"
SPIRAL = (
    f"-c spiral {COARSE} --data.observations 50 --data.t1 2.0 --data.noise 0.1 {BRIEF} --trainer.val_check_interval 2"
)
LATENT = (
    f"-c latent/periodic {COARSE} --data.series 200 --data.batch_size 8 {BRIEF} --trainer.check_val_every_n_epoch 1"
)
STREAM = (  # a table that is read a piece at a time
    f"-c own/classification {COARSE} --data.read.memory 1000 --data.batch_size 8 --data.split.val 0.2 {BRIEF}"
)
PLATEAU = (
    f"{DIGITS} --lr_scheduler ReduceLROnPlateau --lr_scheduler.monitor val/loss --lr_scheduler.patience 0 "
    "--lr_scheduler.threshold 10 --lr_scheduler.threshold_mode abs"
)
RUN = Path("runs/digits/ode_net")
MODULE = (sys.executable, "-m", "odeflow")
ENDING = '''
import signal

from lightning.pytorch import Callback


class Ending(Callback):
    """Signals its own process at a step, or after a validation batch; or cuts the run off at a step or an epoch."""

    def __init__(self, step: int = -1, val: int = -1, epoch: int = -1, cut: int = -1, number: int = 15, rank: int = 0):
        self.step, self.val, self.epoch, self.cut, self.number, self.rank = step, val, epoch, cut, number, rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            self.step = -1
            signal.raise_signal(self.number)
        if trainer.global_step == self.cut:
            raise SystemExit(9)

    def on_validation_batch_end(self, trainer, *args, **kwargs):
        self.val -= not trainer.sanity_checking
        if self.val == 0:
            signal.raise_signal(self.number)

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            raise SystemExit(9)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end
'''


@pytest.fixture(autouse=True)
def _ending(_folder, draw_at) -> None:
    """The callback that ends runs; and figures at the start, which could disturb random numbers."""
    Path("ending.py").write_text(ENDING)
    draw_at("1_start")


def last(run: Path) -> Path:
    return run / "checkpoints/last.ckpt"


def read(run: Path) -> dict[str, Any]:
    return torch.load(last(run), weights_only=True)


def table() -> dict[str, dict[str, str]]:
    """The cells of the metrics of all runs, by name and step; those of later runs count."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted(Path("runs").rglob("metrics.csv")):
        for row in csv.DictReader(file.read_text().splitlines()):
            for name, value in row.items():
                if value:
                    found.setdefault(name, {})[row["step"]] = value
    return found


def best() -> dict[str, Any]:
    """The weights of the newest run's best checkpoint."""
    return torch.load(sorted(Path("runs").rglob("best.ckpt"))[-1], weights_only=True)["state_dict"]


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two states differ, bit by bit."""
    if isinstance(one, torch.Tensor):
        return [] if one.equal(other) else [place]
    if not isinstance(one, dict | list) or len(one) != len(other):
        return [] if one == other else [place]
    keys = one if isinstance(one, dict) else range(len(one))
    return [each for key in keys for each in differences(one[key], other[key], f"{place}/{key}")]


# What is saved


def test_every_epoch_leaves_a_checkpoint(done):
    """A recipe that validates every fifth epoch leaves `last.ckpt` of the second, where training ended."""
    done(f"fit -c latent/periodic --data.series 80 --data.batch_size 8 {BRIEF}")
    stored = read(Path("runs/latent/periodic/version_0"))
    assert (stored["epoch"], stored["global_step"]) == (1, 8)


def test_nothing_is_saved_where_that_is_not_wanted(done):
    """`--trainer.enable_checkpointing false` leaves out the recipe's checkpoints, and trains."""
    done(f"fit {DIGITS} --trainer.enable_checkpointing false")
    assert not list(Path().rglob("*.ckpt"))


def test_a_full_disk_costs_no_checkpoint(digits_run):
    """Where the new checkpoint cannot be written whole, the old one is still there, and no half of the new."""
    shutil.copytree(digits_run.parents[2], "runs")
    path = last(RUN / "version_0")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(of.OdeflowError, match=r"last.ckpt cannot be written: .*What was there before is unchanged"):
            Checkpoints().save_checkpoint({"x": torch.zeros(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} == {"best.ckpt", "last.ckpt"}


def test_a_flipped_bit_is_noticed(refused, digits_run):
    """A bit that is flipped anywhere in a weight is an error that names the file, whoever reads it."""
    shutil.copytree(digits_run.parents[2], "runs")
    path = last(RUN / "version_0")
    contents = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["state_dict"]["flow.dynamics.conv1.weight"]
    contents[contents.index(weight.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(contents)
    for words in ("fit", "test", "sample", "export --output a.safetensors", "plot activations"):
        assert "last.ckpt is damaged: the checksum" in refused(f"{words} --ckpt_path {path}")
    with pytest.raises(of.CheckpointError, match="is damaged"):
        of.load(path)


# How a run ends, and goes on


@pytest.fixture(scope="module")
def unbroken(command, tmp_path_factory) -> dict[str, dict[str, Any]]:
    """By its words, what a run that was not interrupted has at its end."""
    return {}


ENDINGS = [
    (DIGITS, "step 5", 143, 6),
    (DIGITS, "step 5 --trainer.callbacks.number 2", 130, 6),
    (DIGITS, "step 3", 143, 4),  # the last of an epoch: before its validation
    (DIGITS, "epoch 1", 9, 4),
    (f"{DIGITS} --trainer.val_check_interval 2", "val 1", 143, 3),
    (SPIRAL, "step 5", 143, 6),  # a validation is due, which is done when the run goes on
    (f"{DIGITS} --trainer.max_epochs 3 --trainer.max_steps 10", "epoch 1", 9, 4),
    (f"{DIGITS} --trainer.accumulate_grad_batches 2", "step 2", 143, 3),
    (PLATEAU, "val 1", 143, 4),
    (PLATEAU, "step 5", 143, 6),
    (LATENT, "val 2", 143, 4),  # amid a validation, which is done again
    (LATENT, "step 5", 143, 6),
    (STREAM, "step 5", 143, 6),
    (STREAM, "step 3", 143, 4),  # weights are averaged: the validation that is due is of the averages
    (f"{DIGITS} --saving.every_n_train_steps 3", "cut 7", 9, 6),
    (f"{STREAM} --saving.every_n_train_steps 3", "cut 7", 9, 6),
    (f"{LATENT} --saving.every_n_train_steps 4", "cut 7", 9, 4),  # the epoch's end, where a validation is due
]
QUICK = [(DIGITS, "step 5"), (DIGITS, "step 3"), (DIGITS, "epoch 1"), (PLATEAU, "step 5"), (LATENT, "step 5")]
QUICK += [(STREAM, "step 3"), (f"{DIGITS} --saving.every_n_train_steps 3", "cut 7")]


@pytest.mark.parametrize(("words", "ending", "status", "step"), few(ENDINGS, lambda case: case[:2] in QUICK))
def test_a_resumed_run_is_that_which_was_not_interrupted(command, done, unbroken, words, ending, status, step):
    """Signalled anywhere, a run saves where it is and ends with 128 + signal; resumed, it has the same bits at its end.

    If it is cut off without a signal, it goes on from the last checkpoint. Its metrics, too, are those of the unbroken
    run, and the best checkpoint is that of both parts.
    """
    if words not in unbroken:
        done(f"fit {words}")
        unbroken[words] = {**read(next(Path("runs").rglob("version_0"))), "metrics": table(), "best": best()}
    shutil.rmtree("runs", ignore_errors=True)
    interrupted = command(f"fit {words} --trainer.callbacks+=ending.Ending --trainer.callbacks.{ending}")
    assert interrupted.status == status, interrupted.err
    stored = read(next(Path("runs").rglob("version_0")))
    assert stored["global_step"] == step
    resumed = done(f"fit {words} --ckpt_path last")
    assert "version_0/checkpoints/last.ckpt" in resumed.err
    after = read(next(Path("runs").rglob("version_1")))
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        assert not differences(unbroken[words][part], after[part]), part
    assert not differences(unbroken[words]["best"], best())
    assert not differences(unbroken[words]["metrics"], table())


@pytest.mark.parametrize("run", ["validate", "test", "predict"])
def test_other_runs_end_at_once(command, digits_run, run):
    """SIGTERM ends an evaluation with status 143."""
    words = f"{run} --plugins ending.py --ckpt_path {last(digits_run)} --trainer.callbacks+=ending.Ending"
    assert command(f"{words} --trainer.callbacks.val 1").status == 143


def test_a_second_signal_ends_the_run_at_once(command):
    """Who does not want to wait for the end of the step signals again, and has no checkpoint of it."""
    twice = "--trainer.callbacks+=ending.Ending --trainer.callbacks.step 1"
    assert command(f"fit {DIGITS} {twice} {twice} --trainer.callbacks.number 2").status == 130
    assert not last(RUN / "version_0").exists()


@pytest.mark.parametrize("rank", few([0, 1], [1]))
def test_processes_end_after_the_same_step(started, tmp_path, rank):
    """A signal to one of two processes ends both, with one checkpoint, 143, and a word of how to resume."""
    words = (
        f"fit {DIGITS} --trainer.strategy ddp --trainer.accelerator cpu --trainer.devices 2 "
        f"--trainer.callbacks+=ending.Ending --trainer.callbacks.step 5 --trainer.callbacks.rank {rank}"
    )
    outcome = started(*MODULE, *words.split(), folder=tmp_path)
    assert outcome.returncode == 128 + signal.SIGTERM, outcome.stderr
    assert read(tmp_path / RUN / "version_0")["global_step"] == 6
    assert f"To resume: odeflow fit --ckpt_path {RUN}/version_0/checkpoints/last.ckpt" in outcome.stderr


@pytest.mark.parametrize(
    ("killed", "told"),
    few(
        [("getppid", "its parent process"), ("getpid", "terminated with code -9")],
        [("getppid", "its parent process")],
    ),
)
def test_no_process_waits_for_one_that_is_gone(started, tmp_path, killed, told):
    """If one of two processes is killed before they have met, the other ends, too, and says why."""
    code = f"import os\nif os.environ.get('LOCAL_RANK') == '1':\n    os.kill(os.{killed}(), 9)\n"
    Path("killer.py").write_text(code)
    words = "--plugins killer.py --trainer.strategy ddp --trainer.accelerator cpu --trainer.devices 2"
    outcome = started(*MODULE, *f"fit {DIGITS} {words}".split(), folder=tmp_path)
    assert outcome.returncode == -signal.SIGKILL
    assert told in outcome.stderr


# Which checkpoint


def test_the_newest_run_is_found(done, refused, digits_run):
    """`--ckpt_path last` and `best` mean the newest run of the recipe, which is named; where there is none, status 2."""
    for version in (2, 10):
        shutil.copytree(digits_run, RUN / f"version_{version}")
    (RUN / "version_11").mkdir()
    for word in ("last", "best"):
        told = done(f"test -c digits/ode_net --model.dynamics.channels 4 --ckpt_path {word}").err
        assert f"checkpoint: {RUN}/version_10/checkpoints/{word}.ckpt" in told
    Path("again.yaml").write_text(
        "ckpt_path: last\ntrainer: {logger: {class_path: CSVLogger, init_args: {name: digits/ode_net, save_dir: runs}}}"
    )
    assert "version_10" in done(f"fit -c again.yaml -c digits/ode_net {DIGITS} --trainer.fast_dev_run true").err
    assert "no run in runs/digits/ode_net has" in refused("fit -c digits/ode_net --ckpt_path hpc")
    assert "no run in runs/spiral has" in refused("fit -c spiral --ckpt_path last")
    assert "of which runs? Give their recipe" in refused("fit --ckpt_path last")
    assert "there is no checkpoint registry" in refused("fit -c spiral --ckpt_path registry")


# Lightning's finders


def test_the_batch_size_finder_finds_the_data_s(done, caplog):
    """`BatchSizeFinder` tries the batch sizes of the data, not a method of the task, and training follows."""
    done(
        f"fit {DIGITS} --trainer.callbacks+=BatchSizeFinder --trainer.callbacks.init_val 32 --trainer.callbacks.max_val 64"
    )
    assert "Batch size 32 succeeded, trying batch size 64" in caplog.text
    assert read(RUN / "version_0")["global_step"] == 8


def test_the_learning_rate_finder_is_explained(refused):
    """`LearningRateFinder` is refused with what does the same."""
    told = refused(f"fit {DIGITS} --trainer.callbacks+=LearningRateFinder")
    assert "compare a few by --optimizer.lr" in told
    assert "Tuner(trainer).lr_find" in told


# What is typed


@pytest.fixture
def resumed(done, digits_run):
    """Resumes a copy of the run for a second epoch of three batches, by its checkpoint alone; gives its last state."""

    def run(words: str) -> dict[str, Any]:
        shutil.copytree(digits_run.parents[2], "runs")
        done(f"fit --ckpt_path {last(RUN / 'version_0')} --trainer.max_epochs 2 {words}")
        return read(RUN / "version_1")

    return run


@pytest.mark.parametrize(
    ("words", "option", "value"),
    [
        ("--lr_scheduler ConstantLR --lr_scheduler.factor 1 --optimizer.lr 1e-4", "lr", 1e-4),  # another schedule
        ("--optimizer.weight_decay 0.5", "weight_decay", 0.5),
        ("--optimizer.betas [0.5,0.6]", "betas", [0.5, 0.6]),
        ("--optimizer SGD --optimizer.lr 1e-4 --optimizer.momentum 0.5", "momentum", 0.5),
    ],
)
def test_typed_options_of_the_optimizer_count(resumed, words, option, value):
    """On resuming, an option of the optimizer is what was typed, and the optimizer of another class is really used."""
    (group,) = resumed(words)["optimizer_states"][0]["param_groups"]
    assert group[option] == value


def test_a_typed_rate_scales_the_schedule(resumed, caplog):
    """A new learning rate is that of the whole schedule: where it stands after an epoch, all is in proportion."""
    plain = resumed("")["lr_schedulers"][0]["_last_lr"][0]
    shutil.rmtree("runs")
    state = resumed("--optimizer.lr 3e-2")
    assert "The optimizer goes on with other options: " in caplog.text
    assert state["lr_schedulers"][0]["_last_lr"] == [pytest.approx(10 * plain)]
    assert state["lr_schedulers"][0]["base_lrs"] == [3e-2]
    assert state["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 3e-2


def test_typed_options_of_a_schedule_count(done, resumed):
    """An option of the schedule that is typed on resuming is used, where Lightning would restore the old one."""
    assert resumed("--lr_scheduler.warmup 0.75")["lr_schedulers"][0]["warmup"] == 0.75
    step = "--lr_scheduler StepLR --lr_scheduler.step_size 1 --lr_scheduler.gamma"
    done(f"fit {DIGITS} --trainer.max_epochs 1 {step} 0.5 --trainer.logger CSVLogger --trainer.logger.name steps")
    done(f"fit {DIGITS} --trainer.max_epochs 2 {step} 0.1 --ckpt_path runs/steps/version_0/checkpoints/last.ckpt")
    (rate,) = read(RUN / "version_2")["lr_schedulers"][0]["_last_lr"]
    assert rate == pytest.approx(3e-3 * 0.5 * 0.1)


def test_options_that_a_checkpoint_cannot_take_are_refused(done, refused, digits_run):
    """A checkpoint of another trainer does not say what its options were, so a typed one is refused by name."""
    foreign = torch.load(last(digits_run), weights_only=True)
    del foreign["callbacks"]["Resumption"]
    torch.save(foreign, "foreign.ckpt")
    told = refused(f"fit {DIGITS} --ckpt_path foreign.ckpt --optimizer.lr 1e-4")
    assert "--optimizer.lr: the checkpoint was not written by odeflow fit" in told
    done(f"fit {DIGITS} --ckpt_path foreign.ckpt")


def test_typed_patience_counts(done):
    """Early stopping is as patient as the resumed run says, not as the checkpoint remembers."""
    stopping = f"{DIGITS} --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/loss"
    done(f"fit {stopping} --trainer.max_epochs 1 --trainer.callbacks.patience 1 --trainer.callbacks.min_delta 99")
    done(
        f"fit {stopping} --trainer.max_epochs 4 --trainer.callbacks.patience 9 --trainer.callbacks.min_delta 99 --ckpt_path last"
    )
    assert read(RUN / "version_1")["global_step"] == 16


def test_a_run_that_is_longer_already_is_refused(refused, digits_run):
    """Resuming up to an epoch that is over is an error that says so."""
    assert "trainer.max_epochs = 0, but the checkpoint's run has finished 1" in refused(
        f"fit --ckpt_path {last(digits_run)} --trainer.max_epochs 0"
    )
