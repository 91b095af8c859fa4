"""What many solves, and many steps of training, leave in memory while Python's garbage collector is off.

    python benchmarks/memory.py                       # 20,000 solves of each feature, 10,000 steps of training
    python benchmarks/memory.py --solves 300 --features dense events

The field is small, so that what a solve keeps stands out. Counted after a warm-up of a tenth and at the end: the
resident memory, the objects that the collector tracks, and the tensors among them. Without the collector a cycle of
references is never freed, so that each solve that makes one shows. `docs/performance.md` has the table.
"""

import argparse
import contextlib
import gc
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from compare import table
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics import MLP
from odeflow_sde import EulerMaruyama
from odeflow_solvers import RK4, Dopri5, Kvaerno3, Rodas4

BATCH, DIM = 4, 2
HEADER = ("feature", "rounds", "resident memory, MB", "growth, %", "objects", "more objects", "more tensors")
Action = Callable[[], object]


@dataclass(frozen=True)
class Count:
    """What is in memory at a moment.

    Attributes:
        resident: Resident memory of the process, in bytes.
        objects: Number of objects that the collector tracks.
        tensors: Number of tensors among them.
    """

    resident: int
    objects: int
    tensors: int

    @classmethod
    def now(cls) -> "Count":
        """Counts what is in memory."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        tracked = gc.get_objects()
        return cls(
            pages * os.sysconf("SC_PAGE_SIZE"), len(tracked), sum(issubclass(type(each), Tensor) for each in tracked)
        )


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection; what there is before is collected first."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def counted(action: Action, warm: int, rounds: int) -> tuple[Count, Count]:
    """What is in memory after `warm` calls of an action, and after `rounds` more."""
    with uncollected():
        for _ in range(warm):
            action()
        before = Count.now()
        for _ in range(rounds):
            action()
        return before, Count.now()


def solving(
    solver: of.Solver,
    gradient: of.Gradient | None = None,
    *,
    then: Callable[[of.Solution[Tensor]], Tensor] = lambda solution: solution.y,
    field: nn.Module | of.StochasticField | None = None,
    backward: bool = True,
    **options: object,
) -> Action:
    """A solve from random states, and a backward pass through what `then` returns of the solution."""
    field = MLP(dim=DIM, hidden=(4,)) if field is None else field
    t = torch.tensor([0.0, 0.5, 1.0])
    optimizer = torch.optim.SGD(field.parameters(), lr=1e-3) if isinstance(field, nn.Module) else None

    def once() -> None:
        y0 = torch.randn(BATCH, DIM, requires_grad=backward)
        with torch.set_grad_enabled(backward):
            solution = of.solve(field, y0, t, solver=solver, gradient=gradient, **options)  # pyright: ignore
            value = then(solution).square().mean()
        if backward:
            value.backward()
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()

    return once


def _crossing(t: Tensor, y: Tensor) -> Tensor:
    """Zero near t = 0.4, for all samples, or for each if each has its time."""
    return t - 0.4 + 0.01 * (y[:, 0] if t.dim() else y[:, 0].mean())


def _adaptive(**options: bool) -> Dopri5:
    return Dopri5(rtol=1e-2, atol=1e-2, **options)


FEATURES: dict[str, Callable[[], Action]] = {
    "without a gradient": lambda: solving(_adaptive(), backward=False),
    "Backprop": lambda: solving(_adaptive(), of.Backprop()),
    "Checkpointed": lambda: solving(_adaptive(), of.Checkpointed()),
    "Adjoint": lambda: solving(_adaptive(), of.Adjoint()),
    "InterpolatedAdjoint": lambda: solving(_adaptive(), of.InterpolatedAdjoint()),
    "Reversible": lambda: solving(RK4(num_steps=3), of.Reversible()),
    "dense output": lambda: solving(_adaptive(), dense=True, then=lambda solution: solution(torch.tensor([0.2, 0.7]))),
    "events": lambda: solving(_adaptive(), event=of.Event(_crossing)),
    "restarts": lambda: solving(_adaptive(), event=of.Event(_crossing, then=lambda t, y: y + 1)),
    "per sample": lambda: solving(_adaptive(per_sample=True)),
    "per sample, events": lambda: solving(_adaptive(per_sample=True), event=of.Event(_crossing)),
    "compiled": lambda: solving(_adaptive(compile=True)),
    "implicit": lambda: solving(Kvaerno3(rtol=1e-2, atol=1e-2)),
    "Rosenbrock": lambda: solving(Rodas4(rtol=1e-2, atol=1e-2)),
    "stochastic": lambda: solving(
        EulerMaruyama(num_steps=3), of.Backprop(), field=of.SDE(lambda t, y: -y, lambda t, y: 0.1 * y)
    ),
    "failed solve": lambda: _failing,
}
"""By name, what makes the action of a feature, with a field of its own."""


def _failing() -> None:
    """A solve that exceeds its steps, whose error carries the part of the solution that there is."""
    field = MLP(dim=DIM, hidden=(4,))
    with contextlib.suppress(of.SolveError):
        of.solve(field, torch.randn(BATCH, DIM), [0.0, 1.0], solver=Dopri5(rtol=1e-6, atol=1e-6, max_steps=1))


def trained(steps: int) -> tuple[Count, Count]:
    """What is in memory after a tenth of the steps of training the recipe `spiral`, and at their end."""
    from lightning.pytorch import Callback, Trainer

    from odeflow.cli import command
    from odeflow.cli.main import main

    counts: list[Count] = []

    class Counting(Callback):
        """Counts what is in memory twice."""

        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            if trainer.global_step in (steps // 10, steps):
                counts.append(Count.now())

    made = command.Command.instantiate_trainer
    command.Command.instantiate_trainer = lambda self, **kwargs: _with(made(self, **kwargs), Counting())
    words = (
        f"fit -c spiral --trainer.max_epochs -1 --trainer.max_steps {steps} --model.dynamics.hidden [4] "
        "--trainer.enable_progress_bar false --trainer.enable_model_summary false --data.batch_size 4"
    )
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.chdir(folder),
            uncollected(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            main(words.split())
    finally:
        command.Command.instantiate_trainer = made
    before, after = counts
    return before, after


def _with(trainer: object, callback: object) -> object:
    trainer.callbacks.append(callback)  # pyright: ignore
    return trainer


def row(name: str, rounds: int, before: Count, after: Count) -> list[str]:
    """A row of the table."""
    return [
        name,
        f"{rounds:,}",
        f"{after.resident / 1e6:.0f}",
        f"{100 * (after.resident / before.resident - 1):+.2f}",
        f"{after.objects:,}",
        f"{after.objects - before.objects:+,}",
        f"{after.tensors - before.tensors:+,}",
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", nargs="*", choices=FEATURES, default=[*FEATURES], metavar="NAME")
    parser.add_argument("--solves", type=int, default=20_000, help="of each feature")
    parser.add_argument("--steps", type=int, default=10_000, help="of training; 0 for none")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[list[str]] = []
    for name in given.features:
        torch.manual_seed(0)
        warm = given.solves // 10
        rows.append(row(name, given.solves, *counted(FEATURES[name](), warm, given.solves - warm)))
        print(" | ".join(rows[-1]), flush=True)
    if given.steps:
        rows.append(row("training", given.steps, *trained(given.steps)))
    print(table(HEADER, rows))


if __name__ == "__main__":
    main()
