"""Draws how cost grows with the size of a problem, and memory with the number of evaluations, and prints the numbers.

    python benchmarks/scaling.py [--rounds 5] [--folder docs]

makes `performance_scaling.png` and `performance_memory.png` in the folder. One thread; medians of interleaved rounds.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import torch
from compare import interleave, peak_bytes, table
from engines import Mode, engines
from problems import Problem
from torch import nn

import odeflow as of
from odeflow_dynamics import MLP
from odeflow_solvers import RK4

LABELS: dict[Mode, str] = {"forward": "forward", "backprop": "backprop", "memory": "memory-saving gradient"}
STYLES: dict[Mode, str] = {"forward": ":", "backprop": "--", "memory": "-"}
COLOURS = {"torchdiffeq": "tab:orange", "odeflow": "tab:blue"}
GRADIENTS: list[tuple[str, Callable[[int], of.Gradient], str]] = [
    ("Backprop", lambda state: of.Backprop(), "o-"),
    ("Checkpointed", lambda state: of.Checkpointed(), "s-"),
    ("Checkpointed(every=8)", lambda state: of.Checkpointed(every=8), "v-"),
    ("Checkpointed(max_bytes=8 states)", lambda state: of.Checkpointed(max_bytes=8 * state), "^-"),
    ("InterpolatedAdjoint", lambda state: of.InterpolatedAdjoint(), "P--"),
    ("Adjoint", lambda state: of.Adjoint(), "D--"),
    ("Reversible", lambda state: of.Reversible(), "x--"),
]
STEPS = (4, 8, 16, 32, 64, 128, 256)


def _problem(batch: int = 32, dim: int = 2, width: int = 64, times: int = 2) -> Problem:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    field = MLP(dim, hidden=[width, width], time="none")
    y0 = torch.randn(batch, dim, generator=generator)
    return Problem("scaling", "", field, y0, torch.linspace(0, 1, times), 1e-5, 1e-5)


def _params(width: int) -> int:
    return sum(param.numel() for param in _problem(width=width, dim=16).field.parameters())


SWEEPS: dict[str, tuple[str, dict[int, Callable[[], Problem]]]] = {
    "batch size": (
        "state of 2 numbers, field 2-64-64-2",
        {size: lambda size=size: _problem(batch=size) for size in (1, 8, 64, 512, 4096)},
    ),
    "state size": (
        "batch 32, field d-64-64-d",
        {size: lambda size=size: _problem(dim=size) for size in (2, 16, 128, 1024, 8192)},
    ),
    "number of parameters": (
        "batch 32, field 16-w-w-16",
        {_params(width): lambda width=width: _problem(width=width, dim=16) for width in (8, 32, 128, 512, 1024)},
    ),
    "number of output times": (
        "batch 32, field 2-64-64-2",
        {times: lambda times=times: _problem(times=times) for times in (2, 10, 30, 100, 300)},
    ),
}

Costs = dict[tuple[str, Mode], list[float]]


def costs(problem: Problem, rounds: int) -> dict[tuple[str, Mode], float]:
    """Median milliseconds of torchdiffeq and odeflow in each mode."""
    timed = {}
    for mode in LABELS:
        for engine in engines(mode)[:2]:
            run = engine.prepare(problem)
            assert run is not None
            run(lambda: None)
            timed[engine.name.split()[0], mode] = ([], lambda run=run: run(lambda: None))
    interleave(list(timed.values()), rounds)
    return {key: statistics.median(times) for key, (times, _) in timed.items()}


def sweep(quantity: str, rounds: int) -> Costs:
    """Costs along one sweep; printed as a table."""
    sizes = SWEEPS[quantity][1]
    found = [costs(make(), rounds) for make in sizes.values()]
    rows = [[str(size), *(f"{ms:.2f}" for ms in at.values())] for size, at in zip(sizes, found, strict=True)]
    header = (quantity, *(f"{engine} {mode}, ms" for engine, mode in found[0]))
    print(table(header, rows), end="\n\n", flush=True)
    return {key: [at[key] for at in found] for key in found[0]}


def draw_scaling(rounds: int, file: Path) -> None:
    """Four sweeps in one figure."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
    for axis, (quantity, (setting, sizes)) in zip(axes.flat, SWEEPS.items(), strict=True):
        for (engine, mode), values in sweep(quantity, rounds).items():
            label = f"{engine}, {LABELS[mode]}"
            axis.loglog(list(sizes), values, STYLES[mode], color=COLOURS[engine], marker="o", markersize=4, label=label)
        axis.set(xlabel=quantity, ylabel="time of a solve [ms]", title=setting)
        axis.grid(alpha=0.3)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda number: labels[number].split(",")[0], reverse=True)
    handles, labels = [handles[number] for number in order], [labels[number] for number in order]
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def memory(problem: Problem, gradient: of.Gradient, steps: int) -> tuple[int, float]:
    """(evaluations in the forward pass of the method itself, peak megabytes) of a gradient by RK4."""
    y0, solver = problem.y0.clone().requires_grad_(), RK4(num_steps=steps)

    def run() -> None:
        y = of.solve(problem.field, y0, problem.t, solver=solver, gradient=gradient).y
        torch.autograd.grad(y[-1].square().mean(), (y0, *problem.field.parameters()))

    return 4 * steps, peak_bytes(run) / 1e6


def draw_memory(file: Path) -> None:
    """Peak tensor bytes of each gradient against the number of evaluations; printed as a table."""
    problem = _problem(batch=64, dim=64, width=128)
    state = problem.y0.numel() * problem.y0.element_size()
    figure, axis = plt.subplots(figsize=(8, 6), layout="constrained")
    rows = []
    for name, make, style in GRADIENTS:
        points = [memory(problem, make(state), steps) for steps in STEPS]
        axis.loglog(*zip(*points, strict=True), style, markersize=6, label=name)
        rows.append([name, *(f"{megabytes:.2f}" for _, megabytes in points)])
    header = ("peak MB by NFE of the forward solve", *(str(4 * steps) for steps in STEPS))
    print(table(header, rows), flush=True)
    axis.set(
        xlabel="evaluations of the field in the forward solve (RK4, 4 … 256 steps)",
        ylabel="peak of tensors [MB]",
        title=f"field 64-128-128-64, batch 64: a state is {state / 1e3:.0f} kB, "
        f"the parameters {_bytes(problem.field) / 1e3:.0f} kB",
    )
    axis.set_xticks([4 * steps for steps in STEPS], [str(4 * steps) for steps in STEPS], minor=False)
    axis.set_yticks(megabytes := [1, 2, 5, 10, 20, 50, 100], [str(tick) for tick in megabytes])
    axis.minorticks_off()
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    figure.savefig(file, dpi=130)
    plt.close(figure)


def _bytes(field: nn.Module) -> int:
    return sum(param.numel() * param.element_size() for param in field.parameters())


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "docs")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    draw_memory(options.folder / "performance_memory.png")
    print()
    draw_scaling(options.rounds, options.folder / "performance_scaling.png")


if __name__ == "__main__":
    main()
