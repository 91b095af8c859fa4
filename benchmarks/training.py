"""What a training step of each recipe takes: time and the most bytes of tensors, on one thread.

    python benchmarks/training.py mnist/mlp mnist/resnet mnist/rk_net mnist/ode_net --data.root ~/mnist

Options after the recipes go to each of them, as on the command line. Times are the processor's, medians over the steps,
in the precision of the recipe; an epoch is as many steps as its data have batches. `docs/results.md` has the table.
"""

import argparse
import json
import statistics
import time

import torch
from compare import peak_bytes, table
from torch import Tensor

from odeflow.cli.run import Command, prepared
from odeflow.config.request import Request
from odeflow.plugin import registry

HEADER = ("recipe", "parameters", "step, ms", "epoch, s", "peak MB", "NFE forward + backward")


def measure(recipe: str, options: list[str], steps: int) -> list[str]:
    """The row of a recipe."""
    request = Request.of(["-c", recipe, *options])
    registry.discover()
    command = Command(["--config", json.dumps(prepared("fit", request)), *request.words], run=False)
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
    known, options = parser.parse_known_args()
    torch.set_num_threads(1)
    print(table(HEADER, [measure(recipe, options, known.steps) for recipe in known.recipes]))


if __name__ == "__main__":
    main()
