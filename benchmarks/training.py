"""What a training step of each recipe takes: time and the most bytes of tensors, on one thread.

    python benchmarks/training.py mnist/mlp mnist/resnet mnist/rk_net mnist/ode_net --data.root ~/mnist
    python benchmarks/training.py spiral density/two_moons latent/periodic --epochs 5

Options after the recipes go to each of them, as on the command line. Times are the processor's, medians over the steps,
in the precision of the recipe; an epoch is as many steps as its data have batches. `docs/results.md` has the table.

With `--epochs` each recipe is trained twice by that many epochs in Lightning's loop, with validation, callbacks and
files: without and with compiled solves. The time of an epoch is the median over all but the first, which compiles.
"""

import argparse
import contextlib
import json
import math
import statistics
import tempfile
import time

import torch
from compare import peak_bytes, table
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from odeflow.cli.run import Command, prepared
from odeflow.config.request import Request
from odeflow.plugin import registry

HEADER = ("recipe", "parameters", "step, ms", "epoch, s", "peak MB", "NFE forward + backward")
EPOCHS = ("recipe", "epoch, s", "… compiled", "times as fast", "val/loss", "… compiled")


class Clock(Callback):
    """The processor's time at the start of each epoch."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.starts.append(time.process_time())

    @property
    def seconds(self) -> float:
        """The median time from one start to the next, without that of the first epoch."""
        return statistics.median(end - start for start, end in zip(self.starts[1:-1], self.starts[2:], strict=True))


def built(recipe: str, options: list[str]) -> Command:
    """A recipe's task, data and trainer."""
    request = Request.of(["-c", recipe, *options])
    registry.discover()
    return Command(["--config", json.dumps(prepared("fit", request)), *request.words], run=False)


def trained(recipe: str, options: list[str], epochs: int) -> list[str]:
    """The row of a recipe trained without and with compiled solves."""
    seconds, losses = list[float](), list[float]()
    for compiled in ("false", "true"):
        words = ["--model.solver.compile", compiled, "--trainer.max_epochs", f"{epochs + 1}"]  # the last is not timed
        command = built(recipe, [*options, *words, "--trainer.enable_progress_bar", "false"])
        clock = Clock()
        command.trainer.callbacks = [clock, *filter(None, command.trainer.callbacks)]
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            command.trainer.fit(command.model, command.datamodule)
        seconds.append(clock.seconds)
        losses.append(float(command.trainer.callback_metrics.get("val/loss", math.nan)))
    plain, fast = seconds
    return [recipe, f"{plain:.2f}", f"{fast:.2f}", f"{plain / fast:.2f}", *(f"{loss:.4f}" for loss in losses)]


def measure(recipe: str, options: list[str], steps: int) -> list[str]:
    """The row of a recipe."""
    command = built(recipe, options)
    task, data = command.model, command.datamodule
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    batch = next(iter(loader))
    task.log = lambda *args, **kwargs: None
    optimizer = torch.optim.SGD(task.parameters(), lr=0.0)
    mixed = command.trainer.precision == "bf16-mixed"

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = task.loss(batch, "train")
        assert isinstance(loss, Tensor)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    times: list[float] = []
    for _ in range(steps):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    seconds = statistics.median(times)
    stats = getattr(task.flow, "stats", None)
    return [
        recipe,
        f"{sum(param.numel() for param in task.parameters()):,}",
        f"{1e3 * seconds:.0f}",
        f"{seconds * len(loader):.0f}",
        f"{peak_bytes(step) / 1e6:.0f}",
        f"{stats.nfe_forward} + {stats.nfe_backward}" if stats else "",
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", help="names of recipes")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--epochs", type=int, help="train by this many epochs, plain and compiled; at least 3")
    known, options = parser.parse_known_args()
    torch.set_num_threads(1)
    if known.epochs is not None:
        print(table(EPOCHS, [trained(recipe, options, known.epochs) for recipe in known.recipes]))
        return
    print(table(HEADER, [measure(recipe, options, known.steps) for recipe in known.recipes]))


if __name__ == "__main__":
    main()
