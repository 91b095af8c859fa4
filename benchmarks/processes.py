"""What several processes cost: weak scaling with one and two, and what the spread of adaptive solves means for more.

    python benchmarks/processes.py scaling density/two_moons latent/periodic digits/ode_net
    python benchmarks/processes.py spread density/two_moons latent/periodic --weights
    python benchmarks/processes.py model --imbalance 1.045 1.091 1.122

Each process has a batch of the recipe and one thread. `scaling` measures a step on one process and on two, and the sum
of gradients alone; `spread` measures on one process how many evaluations batches take, and computes the mean of the
largest of R such numbers: the slowest of R processes. Options after the recipes go to each of them. `model` measures
nothing: it is arithmetic on the bandwidth and latency of a network.
"""

import argparse
import itertools
import json
import math
import os
import socket
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from compare import table
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from odeflow import Flow, Task
from odeflow.cli.run import Command, prepared
from odeflow.config.request import Request
from odeflow.plugin import registry

WARM = 5
"""Steps that are not measured."""
SCALING = ("recipe", "parameters", "1 process, ms", "2, ms", "efficiency", "sum of gradients, ms", "imbalance")
PROCESSES = (2, 8, 64, 512)
SPREAD = ("recipe", "batches", "evaluations", "from", "to", *(f"slowest of {count}" for count in PROCESSES))


class Loss(nn.Module):
    """The training loss of a batch, as `Task.training_step` has it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Any) -> Tensor:
        """(), the loss with penalties."""
        loss = self.task.loss(batch, "train")
        return loss + sum(value for flow in flows(self.task) for value in flow.penalties.values())


@dataclass(frozen=True)
class Measured:
    """The steps of one process.

    Attributes:
        seconds: Of each step.
        evaluations: Of each step, forward and backward.
        reduction: Seconds of one sum of all gradients; 0 in one process.
        parameters: Their number.
    """

    seconds: list[float]
    evaluations: list[int]
    reduction: float
    parameters: int


def flows(task: Task) -> list[Flow]:
    """The flows of a task that have been solved."""
    return [each for each in task.modules() if isinstance(each, Flow) and each.stats is not None]


def built(recipe: str, options: list[str]) -> Command:
    """Task and data of a recipe."""
    request = Request.of(["-c", recipe, *options])
    registry.discover()
    config = json.dumps(prepared("fit", request))
    command = Command(["--config", config, *request.words], pretrained=request.pretrained(), run=False)
    command.model.log = lambda *args, **kwargs: None
    command.datamodule.prepare_data()
    command.datamodule.setup("fit")
    return command


def steps(recipe: str, options: list[str], count: int) -> Measured:
    """Steps of this process, each with a batch of its own, without a change of the weights."""
    torch.set_num_threads(1)
    joined = distributed.is_initialized()
    rank, size = (distributed.get_rank(), distributed.get_world_size()) if joined else (0, 1)
    command = built(recipe, options)
    passes = itertools.chain.from_iterable(command.datamodule.train_dataloader() for _ in itertools.count())
    batches = list(itertools.islice(passes, rank, size * count, size))
    loss = Loss(command.model.train())
    module = DistributedDataParallel(loss) if size > 1 else loss
    seconds, evaluations = list[float](), list[int]()
    for number in range(WARM + count):
        begun = time.perf_counter()
        module(batches[number % count]).backward()
        if number >= WARM:
            seconds.append(time.perf_counter() - begun)
            evaluations.append(sum(f.stats.nfe_forward + f.stats.nfe_backward for f in flows(command.model)))
        module.zero_grad()
    total = sum(each.numel() for each in loss.parameters())
    return Measured(seconds, evaluations, reduction(total) if size > 1 else 0.0, total)


def reduction(numbers: int, rounds: int = 50) -> float:
    """Median seconds of a sum over all processes of so many numbers."""
    value, seconds = torch.ones(numbers), list[float]()
    for _ in range(rounds):
        distributed.barrier()
        begun = time.perf_counter()
        distributed.all_reduce(value)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def _process(rank: int, port: int, folder: str, recipe: str, options: list[str], count: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    measured = steps(recipe, options, count)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(vars(measured)))
    distributed.barrier()
    os._exit(0)  # DDP keeps threads of gloo, which may abort the interpreter's shutdown


def both(recipe: str, options: list[str], count: int) -> list[Measured]:
    """The same in two processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_process, (port, folder, recipe, options, count), nprocs=2)
        return [Measured(**json.loads((Path(folder) / f"{rank}.json").read_text())) for rank in range(2)]


def scaling(recipe: str, options: list[str], count: int) -> list[str]:
    """The row of a recipe: as much work for each process, so that equal times are an efficiency of 100 %."""
    one, two = steps(recipe, options, count), both(recipe, options, count)
    alone, together = (1e3 * statistics.median(each.seconds) for each in (one, two[0]))
    numbers = torch.tensor([each.evaluations for each in two], dtype=torch.float64)
    imbalance = float(numbers.amax(0).sum() / numbers.mean(0).sum().clamp(min=1))
    return [
        recipe,
        f"{one.parameters:,}",
        f"{alone:.1f}",
        f"{together:.1f}",
        f"{100 * alone / together:.0f} %",
        f"{1e3 * two[0].reduction:.2f}",
        f"{imbalance:.3f}",
    ]


def slowest(numbers: list[int], processes: int) -> float:
    """The mean of the largest of R independent draws from the numbers, by their order: Σ x₍ₖ₎ ((k/N)ᴿ − ((k−1)/N)ᴿ).

    It cannot exceed the largest number, and so is too low where R is not small beside N.
    """
    place = torch.arange(len(numbers) + 1, dtype=torch.float64) / len(numbers)
    return float((torch.tensor(sorted(numbers), dtype=torch.float64) * place.pow(processes).diff()).sum())


def spread(recipe: str, options: list[str], count: int) -> list[str]:
    """The row of a recipe: evaluations of batches, and how many times their mean the slowest process has."""
    numbers = steps(recipe, options, count).evaluations
    mean = statistics.mean(numbers)
    factors = [f"{slowest(numbers, processes) / mean:.3f}" for processes in PROCESSES]
    return [recipe, str(count), f"{mean:.1f}", str(min(numbers)), str(max(numbers)), *factors]


def network(megabytes: float, processes: int, bandwidth: float, latency: float) -> float:
    """Seconds of an all-reduce on paper: the faster of a ring and of a tree.

    Args:
        megabytes: Size of the gradients.
        processes: R.
        bandwidth: Of a process, in gigabytes per second.
        latency: Of a message, in microseconds.
    """
    bulk, hop = 1e-3 * megabytes / bandwidth, 1e-6 * latency
    ring = 2 * (processes - 1) * (bulk / processes + hop)
    return min(ring, 2 * (math.log2(processes) * hop + bulk))


def model(imbalance: list[float], step: float, bandwidth: float, latency: float) -> str:
    """The table of efficiencies t / (k t + a) on paper: step t, imbalance k, all-reduce a."""
    rows = []
    for megabytes in (0.02, 0.83, 40.0):
        for processes, factor in zip(PROCESSES[1:], imbalance, strict=True):
            seconds = 1e3 * network(megabytes, processes, bandwidth, latency)
            shares = [f"{100 * step / (each * step + seconds):.0f} %" for each in (1.0, factor)]
            rows.append([f"{megabytes:g}", str(processes), f"{seconds:.2f}", *shares])
    return table(("gradients, MB", "processes", "all-reduce, ms", "fixed steps", "adaptive"), rows)


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scaling", "spread", "model"])
    parser.add_argument("recipes", nargs="*", help="names of recipes")
    parser.add_argument("--steps", type=int, help="number of batches; by default 30, and 400 of the spread")
    several = {"type": float, "nargs": len(PROCESSES) - 1}
    parser.add_argument("--imbalance", **several, help="k, the slowest of 8, 64 and 512 processes by the mean")
    parser.add_argument("--step", type=float, default=10.0, help="t, of one process alone, in milliseconds")
    parser.add_argument("--bandwidth", type=float, default=25.0, help="of a process, in gigabytes per second")
    parser.add_argument("--latency", type=float, default=5.0, help="of a message, in microseconds")
    known, options = parser.parse_known_args(arguments)
    if known.what == "model":
        print(model(known.imbalance or [1.0] * (len(PROCESSES) - 1), known.step, known.bandwidth, known.latency))
        return
    row, header, count = (scaling, SCALING, 30) if known.what == "scaling" else (spread, SPREAD, 400)
    print(table(header, [row(recipe, options, known.steps or count) for recipe in known.recipes]))


if __name__ == "__main__":
    main()
