"""Kills trainings at random moments, resumes them, and compares them bit by bit with trainings that were not killed.

    python benchmarks/kills.py --kills 20
    python benchmarks/kills.py --kills 3 --only spiral --signal SIGTERM

For each recipe a short training runs unbroken, and as often as asked another is killed at a random moment and resumed
by `--ckpt_path last`, or begun again if it left no checkpoint. Weights, their averages, optimizer, schedule, best
checkpoint and metrics must be the same to the last bit. Metrics of all parts are joined by step, the later ones first.
With SIGTERM the killed run must end with status 143 and a checkpoint if it had begun to train. The exit status is 1 if
anything differs.
"""

import argparse
import csv
import importlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from odeflow.cli.main import main as command_line
from odeflow.plugin import registry
from odeflow.training.callbacks import Figures

RECIPES = {
    "digits/ode_net": "--model.dynamics.channels 4 --trainer.max_epochs 3 --trainer.limit_train_batches 9",
    "density/two_moons": "--trainer.max_epochs 3 --trainer.limit_train_batches 9 --model.dynamics.hidden [16]",
    "latent/periodic": "--trainer.max_epochs 4 --trainer.limit_train_batches 7 --trainer.check_val_every_n_epoch 2 "
    "--data.series 400 --data.batch_size 20 --model.solver RK4 --model.solver.num_steps 4",
    "spiral": "--trainer.max_epochs 3 --trainer.limit_train_batches 10",
}
"""Recipes with options that make them short."""
COMMON = (
    "--saving.every_n_train_steps 4 --trainer.log_every_n_steps 1 --trainer.enable_progress_bar false "
    "--trainer.enable_model_summary false --trainer.limit_val_batches 2 --trainer.callbacks+=WarmupEMA"
)
CONTENTS = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")
IGNORED = ("epoch_seconds",)
"""Metrics that measure time."""


@dataclass(frozen=True)
class Training:
    """A training of a recipe in a folder of its own.

    Attributes:
        recipe: The recipe.
        folder: The folder.
    """

    recipe: str
    folder: Path

    def start(self, more: str = "") -> int:
        """Begins it, or goes on, in a process of its own, whose number is returned. What it says goes to said.txt."""
        words = f"fit -c {self.recipe} {RECIPES[self.recipe]} {COMMON} {more}".split()
        child = os.fork()  # everything is imported already
        if child:
            return child
        status = 1
        try:
            os.chdir(self.folder)
            said = os.open("said.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            os.dup2(said, 1)
            os.dup2(said, 2)
            status = command_line(words)
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def finish(self) -> None:
        """Trains to the end, from the last checkpoint if there is one.

        Raises:
            RuntimeError: The training failed.
        """
        resumed = "--ckpt_path last" if any(self.folder.glob("runs/**/last*.ckpt")) else ""
        if ended(self.start(resumed)) != 0:
            raise RuntimeError((self.folder / "said.txt").read_text()[-2000:])

    @property
    def runs(self) -> list[Path]:
        """The folders of the run and of those that went on with it."""
        return sorted((self.folder / "runs" / self.recipe).glob("version_*"), key=_version)

    def state(self) -> dict[str, Any]:
        """What the training came to."""
        last, best = (
            torch.load(max(self.folder.glob(f"runs/**/{name}.ckpt"), key=_version), weights_only=True)
            for name in ("last", "best")
        )
        state = {part: last[part] for part in CONTENTS}
        return state | {"best": best["state_dict"], "metrics": self.metrics()}

    def metrics(self) -> dict[str, dict[str, str]]:
        """The cells of all metrics.csv, by name and step."""
        found: dict[str, dict[str, str]] = {}
        for run in self.runs:
            if (run / "metrics.csv").is_file():
                with (run / "metrics.csv").open() as file:
                    for row in csv.DictReader(file):
                        for name, value in row.items():
                            if value and name not in IGNORED:
                                found.setdefault(name, {})[row["step"]] = value
        return found


def _version(path: Path) -> int:
    """The number of the run of a file or folder; one that finds nothing left to train writes no checkpoint."""
    return next(int(part.partition("_")[2]) for part in path.parts if part.startswith("version_"))


def ended(child: int) -> int:
    """The exit status of a process, once it has ended; the negative number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Where two states differ, bit by bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}, key=str):
            if key not in one or key not in other:
                yield f"{place}/{key} is missing"
            else:
                yield from differences(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}/{number}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if not one.equal(other):
            yield place
    elif one != other:
        yield f"{place}: {one} {other}"


def killed(recipe: str, seconds: float, number: int, unbroken: dict[str, Any]) -> list[str]:
    """What differs in a training that is killed after so many seconds and resumed; says what happened."""
    with tempfile.TemporaryDirectory() as folder:
        training = Training(recipe, Path(folder))
        process = training.start()
        time.sleep(seconds)
        os.kill(process, number)
        status = ended(process)
        left = sorted(path.name for path in training.folder.glob("runs/**/checkpoints/*"))
        training.finish()
        found = list(differences(unbroken, training.state()))
        print(f"{recipe}: after {seconds:.1f} s, status {status}, left {left}: {found[:4] or 'the same'}", flush=True)
        return found


def main() -> int:
    """Kills, resumes and compares; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills of each recipe")
    parser.add_argument("--only", nargs="*", default=[*RECIPES][:3], choices=[*RECIPES], help="recipes")
    parser.add_argument("--signal", default="SIGKILL", help="name of the signal")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    importlib.import_module("odeflow.cli.run")  # before processes are forked
    registry.discover()
    Figures._draw = lambda *_: None  # which would take most of the time
    moments, wrong = random.Random(options.seed), 0
    for recipe in options.only:
        with tempfile.TemporaryDirectory() as folder:
            training, begun = Training(recipe, Path(folder)), time.monotonic()
            training.finish()
            length, unbroken = time.monotonic() - begun, training.state()
        for _ in range(options.kills):
            number = signal.Signals[options.signal]
            wrong += bool(killed(recipe, moments.uniform(0.0, 1.0) * length, number, unbroken))
    print(f"{options.kills * len(options.only)} kills, {wrong} with differences")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
