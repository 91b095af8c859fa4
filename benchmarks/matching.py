"""Flow matching from eight Gaussians to two moons by the protocol of Cheng & Schwing (2025), figure 1.

    python benchmarks/matching.py --coupling MinibatchOT --seeds 0,1
    python benchmarks/matching.py --coupling Conditional --condition class
    python benchmarks/matching.py --coupling MinibatchOT --seeds 0 --save runs/matching
    python benchmarks/matching.py --solvers runs/matching/MinibatchOT_none_0.ckpt

The squared 2-Wasserstein distance between samples and new data, by Dopri5 at 1e-4 and by one step of Euler; beside it
that of two samples of the data, and that of the source, and last mean and standard deviation over the seeds.
"Normalised energy" is |∫E|v|² dt − W₂²(source, data)| / W₂²(source, data). It follows the release in net, optimizer,
steps, data and their order: 1,024 points at a time, of which each 256 make a batch, without a transport in the order in
which they are made. By default the transport is that of 256 points, not of 1,024 (`--group 1024`, for which an
assignment takes 200 ms), and distances are of 3,000 points, not of 10,000, drawn anew for each seed.

With `--solvers` nothing is trained: the distance and the mean of −log p at the data by several solvers and numbers of
evaluations of the field, for the weights of a checkpoint.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

import odeflow as of
from odeflow.plugin.registry import look_up
from odeflow.training import checkpoint
from odeflow_dynamics import ResidualMLP
from odeflow_matching import FlowMatching, GaussianRing, Independent, PublishedMoons, Transport
from odeflow_solvers import RK4, Bosh3, Dopri5, Dopri8, Euler, Heun, Midpoint, Tsit5

BATCH = 256
ORDERED = 1_024
"""Number of points in the order of which they are made, four batches, where there is no transport."""
LIKELY = 200
"""Number of points by whose likelihood solvers are compared: the same for all, since noise of the choice is common."""


def main(words: Sequence[str] | None = None) -> None:
    """Prints a line for each run, or for each solver."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--coupling", default="Independent")
    parser.add_argument("--condition", choices=("none", "class", "x"), default="none")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--bfloat16", action="store_true", help="train under autocast, in half of the time")
    parser.add_argument("--group", type=int, default=BATCH, help="points of a transport, a multiple of 256")
    parser.add_argument("--points", type=int, default=3_000)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--solvers", type=Path)
    options = parser.parse_args(words)
    if options.solvers is not None:
        for line in by_solvers(options.solvers, options.points):
            print(line, flush=True)
        return
    every: list[dict[str, float]] = []
    for seed in map(int, options.seeds.split(",")):
        task = trained(options.coupling, options.condition, seed, options.steps, options.bfloat16, options.group)
        name = f"{options.coupling}_{options.condition}_{seed}"
        every.append(measured(task, options.condition, options.points, seed))
        print(name, *(f"{key} {value:.4f}" for key, value in every[-1].items()), flush=True)
        if options.save is not None:
            options.save.mkdir(parents=True, exist_ok=True)
            torch.save(
                {"state_dict": task.state_dict(), checkpoint.KEY: {"model": task.spec}}, options.save / f"{name}.ckpt"
            )
    if len(every) > 1:
        columns = {key: [found[key] for found in every] for key in every[0]}
        print(*(f"{key} {mean(each):.4f} ± {stdev(each):.4f}" for key, each in columns.items()))


def trained(
    coupling: str, condition: str, seed: int, steps: int, bfloat16: bool = False, group: int = BATCH
) -> FlowMatching:
    """A task after a training by the protocol: Adam at 3e-4, batches of 256."""
    torch.manual_seed(seed)
    join: Any = look_up("coupling", coupling)()
    ordered = isinstance(join, Independent)
    count = ORDERED if ordered else group
    data = PublishedMoons(count, count, seed=seed, condition=condition, shuffle=not ordered)
    net, solver = ResidualMLP(2 + data.num_conditions), Dopri5(1e-4, 1e-4)
    ring = GaussianRing()
    task = FlowMatching(net, solver, base=ring, coupling=join, num_conditions=data.num_conditions).train()
    optimizer = torch.optim.Adam(task.parameters(), 3e-4)
    for done in range(0, steps, count // BATCH):
        draw = task.draw(*parted(next(iter(data.train_dataloader()))))
        for first in range(0, min(count, (steps - done) * BATCH), BATCH):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = task.compare(draw.take(slice(first, first + BATCH)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return task.eval()


@torch.no_grad()
def measured(task: FlowMatching, condition: str, points: int, seed: int) -> dict[str, float]:
    """The distances of samples by the adaptive solver and by one step of Euler, with what they are compared to."""
    (x, c), z = parted(drawn(condition, points, seed)), source(points, seed)
    adaptive = task.flow(z, context=c)
    found = {"w2_squared": distance(adaptive, x)}
    found["evaluations"] = evaluations(task.flow)
    _, energy = task.travelled(z, c)
    task.flow.solver = Euler(num_steps=1)
    found["w2_squared_euler_1"] = distance(task.flow(z, context=c), x)
    found["w2_squared_data"], found["w2_squared_source"] = floors(condition, points, seed)
    found["path_energy"] = energy.item()
    found["normalised_energy"] = abs(energy.item() - found["w2_squared_source"]) / found["w2_squared_source"]
    task.flow.solver = Dopri5(1e-4, 1e-4)
    return found


def floors(condition: str, points: int, seed: int) -> tuple[float, float]:
    """The distances of other data and of the source from the data."""
    x, others = (parted(drawn(condition, points, each))[0] for each in (seed, seed + 1))
    return distance(others, x), distance(source(points, seed), x)


def source(points: int, seed: int = 1) -> Tensor:
    """(points, 2), points of the source."""
    torch.manual_seed(seed)
    return GaussianRing()().sample(torch.Size([points]))


def by_solvers(path: Path, points: int) -> Iterator[str]:
    """Lines of solver, setting, evaluations, distance, evaluations of the likelihood and −log p, for a checkpoint."""
    task: Any = of.load(path)
    x, _ = parted(drawn("none", points, 1))
    z = source(points)
    with torch.no_grad():
        for name, option, solver in solvers():
            task.flow.solver = solver
            y = task.flow(z)
            there = evaluations(task.flow)
            nll = -task.log_prob(x[:LIKELY]).mean().item()
            yield f"{name}, {option}, {there:.1f}, {distance(y, x):.4f}, {evaluations(task.flow):.1f}, {nll:.4f}"


def evaluations(flow: of.Flow) -> float:
    """Evaluations of the field in the last solve for a sample, on average if each has its own steps."""
    stats = flow.stats
    assert stats is not None
    accepted, rejected = stats.accepted_per_sample, stats.rejected_per_sample
    if accepted is None or rejected is None:
        return float(stats.nfe_forward)
    share = (accepted + rejected).double().mean() / (stats.accepted + stats.rejected)
    return stats.nfe_forward * share.item()


def solvers() -> Iterator[tuple[str, str, of.Solver]]:
    """The solvers compared, each with the name of its setting."""
    for name, kind in (("Euler", Euler), ("Midpoint", Midpoint), ("Heun", Heun), ("RK4", RK4)):
        for steps in (1, 2, 4, 8, 16, 32):
            yield name, f"{steps} steps", kind(num_steps=steps)
    for name, kind in (("Bosh3", Bosh3), ("Dopri5", Dopri5), ("Tsit5", Tsit5), ("Dopri8", Dopri8)):
        for tolerance in (1e-1, 1e-2, 1e-3, 1e-4):
            yield name, f"rtol={tolerance:g}", kind(tolerance, tolerance)
            if name == "Dopri5":
                yield f"{name} per sample", f"rtol={tolerance:g}", kind(tolerance, tolerance, per_sample=True)


def drawn(condition: str, points: int, seed: int) -> Any:
    """Points of the test part of a seed, with their condition."""
    data = PublishedMoons(points, points, points, points, 1000 + seed, condition)
    data.setup("test")
    return next(iter(data.test_dataloader()))


def parted(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Points and conditions, if any."""
    return batch if isinstance(batch, (tuple, list)) else (batch, None)


def distance(x: Tensor, y: Tensor) -> float:
    """W₂² of two samples."""
    metric = Transport(len(x))
    metric.update(x, y)
    return float(metric.compute())


if __name__ == "__main__":
    main()
