"""Compares odeflow with torchdiffeq, and with torchode, torchdyn and diffrax where installed, on one thread.

    python benchmarks/compare.py
    python benchmarks/compare.py --cases spiral density --modes backprop --rounds 5 --markdown table.md
    python benchmarks/compare.py --compiled    # with torch.compile; minutes more, which are not counted

Each engine runs once a round, and they take turns in being first, so that other load on the machine meets them all.
Times are CPU times of the process, which is that of the clock on an idle machine, and medians over the rounds.
`docs/performance.md` says what the columns mean.
"""

import argparse
import gc
import itertools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would report each start and stop

import torch
from engines import MODES, Engine, Mode, Run, engines
from problems import PROBLEMS, Problem
from torch import Tensor

HEADER = ("", "ms", "speed-up", "NFE", "error y", "error ∂y₀", "error ∂θ", "peak MB", "over field")


@dataclass
class Calls:
    """How often a run called the field: evaluations forward and backward, and how many of all were differentiated."""

    forward: int = 0
    backward: int = 0
    differentiated: int = 0


@dataclass
class Row:
    """What was measured of an engine on a problem."""

    engine: str
    calls: Calls | None
    errors: list[float]
    peak_bytes: int | None
    ms: float = 0.0
    speed_up: float = 1.0
    field_ms: float | None = None
    times: dict[str, list[float]] = field(default_factory=lambda: {"run": [], "field": []})

    def cells(self) -> list[str]:
        """The row of the table."""
        errors = [f"{error:.0e}" for error in self.errors]
        return [
            self.engine,
            f"{self.ms:.1f}",
            f"{self.speed_up:.2f}",
            f"{self.calls.forward}+{self.calls.backward}" if self.calls else "",
            *errors,
            *[""] * (3 - len(errors)),
            "" if self.peak_bytes is None else f"{self.peak_bytes / 1e6:.2f}",
            "" if self.field_ms is None else f"{self.ms / self.field_ms:.2f}",
        ]


def count_calls(run: Run, problem: Problem) -> Calls:
    """The field's evaluations and vector–Jacobian products in a run."""
    calls, in_backward = Calls(), []

    def differentiated(grad: Tensor) -> None:
        calls.differentiated += 1

    def called(module: object, inputs: object, output: Tensor) -> None:
        if in_backward:
            calls.backward += 1
        else:
            calls.forward += 1
        if output.requires_grad:
            output.register_hook(differentiated)

    with problem.field.register_forward_hook(called):
        run(lambda: in_backward.append(True))
    return calls


def field_alone(problem: Problem, calls: Calls, mode: Mode) -> Callable[[], None]:
    """The same evaluations and vector–Jacobian products one after the other, without a solver."""
    t, params = problem.t.mean(), tuple(problem.field.parameters())

    def traced() -> tuple[Tensor, Tensor]:
        y = problem.y0.clone().requires_grad_()
        return y, problem.field(t, y)

    def differentiate(y: Tensor, slope: Tensor) -> None:
        torch.autograd.grad(slope, (y, *params), problem.y0)

    def evaluate_all() -> None:
        with torch.no_grad():
            for _ in range(calls.forward + calls.backward - calls.differentiated):
                problem.field(t, problem.y0)
        if mode == "backprop":
            for y, slope in [traced() for _ in range(calls.differentiated)]:
                differentiate(y, slope)
        else:
            for _ in range(calls.differentiated):
                differentiate(*traced())

    return evaluate_all


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes of tensors that a call holds at once, beyond those that were there before."""
    gc.collect()
    settings = {"activities": [torch.profiler.ProfilerActivity.CPU], "profile_memory": True}
    with torch.profiler.profile(**settings) as profile:
        function()
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(itertools.accumulate(sizes), default=0)


def examine(engine: Engine, run: Run, problem: Problem, truth: list[Tensor]) -> Row:
    """Everything but the times."""
    result = run(lambda: None)
    errors = [float((value.double() - true).norm() / true.norm()) for value, true in zip(result, truth, strict=False)]
    if not engine.visible:
        return Row(engine.name, None, errors, None)
    return Row(engine.name, count_calls(run, problem), errors, peak_bytes(lambda: run(lambda: None)))


def measure(problem: Problem, mode: Mode, rounds: int, compiled: bool = False) -> list[Row]:
    """The rows of all engines on one problem."""
    truth, rows = problem.truth(), []
    timed: list[tuple[list[float], Callable[[], object]]] = []
    for engine in engines(mode, compiled):
        run = engine.prepare(problem)
        if run is None:
            continue
        row = examine(engine, run, problem, truth)
        rows.append(row)
        timed.append((row.times["run"], lambda run=run: run(lambda: None)))
        if row.calls:
            timed.append((row.times["field"], field_alone(problem, row.calls, mode)))
    interleave(timed, rounds)
    for row in rows:
        row.ms = statistics.median(row.times["run"])
        row.speed_up = rows[0].ms / row.ms
        row.field_ms = statistics.median(row.times["field"]) if row.calls else None
    return rows


def interleave(timed: list[tuple[list[float], Callable[[], object]]], rounds: int) -> None:
    """Calls each function once a round and appends its CPU time, in milliseconds, to the list beside it."""
    gc.collect()
    gc.freeze()  # what was made so far is not searched for garbage in anybody's time
    for number in range(rounds):
        first = number % len(timed)
        for times, function in timed[first:] + timed[:first]:
            start = time.process_time()
            function()
            times.append(1e3 * (time.process_time() - start))
    gc.unfreeze()


def table(header: tuple[str, ...], rows: list[list[str]]) -> str:
    """Markdown with aligned columns."""
    lines = [list(header), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    texts = []
    for line in lines:
        cells = [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
        texts.append(f"| {' | '.join(cells)} |")
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([texts[0], f"| {' | '.join(rule)} |", *texts[1:]])


def summary(results: dict[tuple[str, Mode], list[Row]], modes: list[Mode]) -> str:
    """Times as fast as torchdiffeq, one row a problem; the first odeflow row of each mode."""
    rows = []
    for name in dict.fromkeys(name for name, _ in results):
        cells = [next(row for row in results[name, mode] if row.engine.startswith("odeflow")) for mode in modes]
        rows.append([name, *(f"{row.speed_up:.2f}" for row in cells)])
    return table(("speed-up", *modes), rows)


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, names in (("--cases", list(PROBLEMS)), ("--modes", list(MODES))):
        parser.add_argument(option, nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compiled", action="store_true", help="run odeflow with compile=True, too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to FILE, too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results: dict[tuple[str, Mode], list[Row]] = {}
    parts: list[str] = []
    for name in options.cases:
        problem = PROBLEMS[name]()
        for mode in options.modes:
            results[name, mode] = measure(problem, mode, options.rounds, options.compiled)
            parts.append(f"**{problem.title}: {MODES[mode]}**")
            parts.append(table(HEADER, [row.cells() for row in results[name, mode]]))
            print("\n\n".join(parts[-2:]), end="\n\n", flush=True)
    parts = [summary(results, options.modes), *parts]
    print(parts[0])
    if options.markdown:
        options.markdown.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
