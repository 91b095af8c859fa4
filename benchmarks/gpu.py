"""Times odeflow beside torchdiffeq on a GPU, eager, compiled, and replayed as captured graphs; prints Markdown.

    python benchmarks/gpu.py                      # all problems, in less than six minutes
    python benchmarks/gpu.py --cases spiral density --budget 120
    python benchmarks/gpu.py --device cpu --smoke # few problems and rounds, without the compiler: does it run?

Four forms of odeflow: eager; "loop", one compiled program that asks the host after each step; "graph", whose attempts
are captured as they are traced; and "graph + compiler", what `compile=True` is on a GPU. Times are those of the clock,
medians over the rounds, with the device waited for. The difference is that of the solution, or of the gradients, from
torchdiffeq's at the same tolerance. What does not fit into the budget of seconds is left out, and said.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torchdiffeq
from compare import table
from problems import PROBLEMS, Problem
from torch import Tensor

import odeflow as of
from odeflow.engine.loop import compiled as programs
from odeflow_solvers import Dopri5

HEADER = ("", "ms", "speed-up", "µs a step", "kernels a step", "steps", "peak MB", "difference", "first call, s")
FORMS = ("torchdiffeq", "eager", "loop", "graph", "graph + compiler")
SMOKE = ("spiral", "density")
SECONDS = 3.0
"""Most that the rounds of a row take."""


@dataclass
class Solved:
    """A solution, or its gradients, as one vector, and the attempted steps, where they are known."""

    values: Tensor
    steps: int | None


@contextmanager
def form_of(name: str) -> Iterator[None]:
    """Makes the programs that are made inside of one form."""
    replays, compiled = programs.replays, programs._compiled
    programs.replays = lambda device: name.startswith("graph")
    if name == "graph":
        programs._compiled = lambda function, inputs: programs.traced(function, *inputs)
    try:
        yield
    finally:
        programs.replays, programs._compiled = replays, compiled


def runner(problem: Problem, form: str, gradient: bool) -> Callable[[], Solved]:
    """What solves a problem, and differentiates L = Σ w · y."""
    weights, params = problem.weights().to(problem.y0), list(problem.field.parameters())
    solver = Dopri5(problem.rtol, problem.atol, compile=form not in ("torchdiffeq", "eager"))
    method = of.Checkpointed() if gradient else of.Backprop()

    def solve(y0: Tensor) -> tuple[Tensor, int | None]:
        if form == "torchdiffeq":
            odeint = torchdiffeq.odeint_adjoint if gradient else torchdiffeq.odeint
            settings = {"rtol": problem.rtol, "atol": problem.atol, "method": "dopri5"}
            return odeint(problem.field, y0, problem.t, **settings), None
        solution = of.solve(problem.field, y0, problem.t, solver=solver, gradient=method)
        return solution.y, solution.stats.accepted + solution.stats.rejected

    def run() -> Solved:
        if not gradient:
            with torch.no_grad():
                y, steps = solve(problem.y0)
            return Solved(y.flatten(), steps)
        y0 = problem.y0.clone().requires_grad_()
        y, steps = solve(y0)
        grads = torch.autograd.grad((y * weights).sum(), (y0, *params))
        return Solved(torch.cat([grad.flatten() for grad in grads]), steps)

    return run


def on(problem: Problem, device: torch.device) -> Problem:
    """The problem on a device."""
    field, y0 = copy.deepcopy(problem.field).to(device), problem.y0.to(device)
    return replace(problem, field=field, y0=y0, t=problem.t.to(device))


def timed(run: Callable[[], Solved], device: torch.device) -> tuple[Solved, float]:
    """(result, milliseconds)."""
    wait(device)
    began = time.perf_counter()
    result = run()
    wait(device)
    return result, 1e3 * (time.perf_counter() - began)


def wait(device: torch.device) -> None:
    """Waits until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def kernels(run: Callable[[], Solved], device: torch.device) -> int | None:
    """Number of kernels that a run launches, those of graphs included; None without a GPU."""
    if device.type != "cuda":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recording:
        timed(run, device)
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in recording.events())


def row(
    problem: Problem, form: str, gradient: bool, rounds: int, base: tuple[Solved, float] | None
) -> tuple[list[str], tuple[Solved, float]]:
    """(cells, (result, milliseconds)) of a form on a problem."""
    device, run = problem.y0.device, runner(problem, form, gradient)
    with form_of(form):
        result, first = timed(run, device)
        timed(run, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            held = torch.cuda.memory_allocated(device)
        times: list[float] = []
        while len(times) < rounds and sum(times) < 1e3 * SECONDS:
            times.append(timed(run, device)[1])
        peak = f"{(torch.cuda.max_memory_allocated(device) - held) / 2**20:.1f}" if device.type == "cuda" else ""
        launched = kernels(run, device)
    ms, steps = statistics.median(times), result.steps
    reference, slow = base or (result, ms)
    difference = (result.values - reference.values).norm() / reference.values.norm()
    per_step = "" if steps is None else f"{1e3 * ms / steps:.1f}"
    per_kernel = "" if steps is None or launched is None else f"{launched / steps:.1f}"
    cells = [form, f"{ms:.3f}", f"{slow / ms:.2f}", per_step, per_kernel, str(steps or ""), peak, f"{difference:.0e}"]
    return [*cells, f"{first / 1e3:.1f}"], (result, ms)


def measured(problem: Problem, gradient: bool, forms: Sequence[str], rounds: int, until: float) -> list[list[str]]:
    """The rows of a problem. A form that fails says why."""
    rows: list[list[str]] = []
    base = None
    for form in forms:
        if time.perf_counter() > until:
            rows.append([form, "left out", *[""] * (len(HEADER) - 2)])
            continue
        try:
            cells, found = row(problem, form, gradient, rounds, base)
        except Exception as failure:  # one form's fault leaves the others
            cells = [form, f"{type(failure).__name__}: {str(failure)[:80]}", *[""] * (len(HEADER) - 2)]
        else:
            base = base or found
        rows.append(cells)
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--budget", type=float, default=330.0, help="seconds")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--smoke", action="store_true", help="few problems and rounds, without the compiler")
    given = parser.parse_args(words)
    if given.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU; --device cpu --smoke tries the script without one")
    cases, rounds, forms = (SMOKE, 1, FORMS[:2] + FORMS[3:4]) if given.smoke else (given.cases, given.rounds, FORMS)
    until = time.perf_counter() + given.budget
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    name = torch.cuda.get_device_name(given.device) if given.device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, odeflow {of.__version__}, {time.strftime('%d %B %Y')}")
    for case in cases:
        problem = on(PROBLEMS[case](), given.device)
        for gradient, mode in ((False, "forward"), (True, "gradient that saves memory")):
            rows = measured(problem, gradient, forms, rounds, until)
            print(f"\n{problem.title}: {mode}\n\n{table(HEADER, rows)}", flush=True)


if __name__ == "__main__":
    main()
