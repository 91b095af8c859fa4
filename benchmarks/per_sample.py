"""Steps of all samples together against steps of each sample's own, and against torchode, and prints the numbers.

    python benchmarks/per_sample.py [--cases cycle spans] [--rounds 5]

- `cycle`: van der Pol's oscillator with mu = 25 from places all along its limit cycle, for one cycle. At any time some
  sample is where small steps are needed (Lienen & Gunnemann 2022, "torchode", section 4.1).
- `spans`: a perceptron over intervals whose lengths differ by up to 100 times. What leaving out finished samples saves
  is the difference to the row in which none is.

Dormand-Prince 5(4), float64, without autograd. Times are processor time, medians of interleaved rounds, one thread.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from compare import table
from torch import Tensor

import odeflow as of
from odeflow.engine.loop import sample_clocks
from odeflow_dynamics import MLP
from odeflow_solvers import Dopri5

TOLERANCE = 1e-5


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    """The oscillator x'' = 25 (1 - x^2) x' - x as a field on (x, x')."""
    x, v = y.unbind(-1)
    return torch.stack((v, 25 * (1 - x**2) * v - x), dim=-1)


@dataclass
class Case:
    """A batch of problems.

    Attributes:
        name: For the table.
        function: The field.
        y0: (B, d).
        t: (B, 2).
        calls: Number of calls of the field since it was last cleared.
        rows: Number of samples in all these calls.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    y0: Tensor
    t: Tensor
    calls: int = field(default=0, init=False)
    rows: int = field(default=0, init=False)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        self.rows += len(y)
        return self.function(t, y)


def cycle(batch: int) -> Case:
    """Samples at equal distances of time along the cycle."""
    solver = Dopri5(1e-7, 1e-7, max_steps=100_000)
    start = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    *_, start = of.solve(van_der_pol, start, [0.0, 60.0], solver=solver).y
    y = of.solve(van_der_pol, start, torch.linspace(0, 41, batch + 1), solver=solver).y
    y0 = y[:-1, 0].contiguous()
    return Case(f"cycle, batch {batch}", van_der_pol, y0, torch.tensor([[0.0, 41.0]]).expand(batch, -1).double())


def spans(batch: int, width: int = 256) -> Case:
    """Intervals from 0 to between 0.2 and 20, log-uniform."""
    torch.manual_seed(0)
    ends = torch.logspace(-0.7, 1.3, batch, dtype=torch.float64)
    t = torch.stack((torch.zeros_like(ends), ends), dim=1)
    return Case(f"spans, batch {batch}", MLP(16, hidden=[width, width]).double(), torch.randn(batch, 16).double(), t)


CASES: dict[str, list[Callable[[], Case]]] = {
    "cycle": [lambda: cycle(16), lambda: cycle(64), lambda: cycle(256)],
    "spans": [lambda: spans(64), lambda: spans(256)],
}
Steps = tuple[float, int]
"""(mean over the samples, largest) number of accepted steps."""


def together(case: Case) -> Steps:
    """All samples in common steps; those of other intervals are scaled to a common one."""
    length = case.t[:, 1:] - case.t[:, :1]

    def scaled(s: Tensor, y: Tensor) -> Tensor:
        return case(s * length[:, 0], y) * length

    stats = of.solve(scaled, case.y0, [0.0, 1.0], solver=Dopri5(TOLERANCE, TOLERANCE, max_steps=100_000)).stats
    return stats.accepted, stats.accepted


def apart(case: Case, narrow_at: float = sample_clocks.NARROW_AT) -> Steps:
    """Each sample in its own steps."""
    usual, sample_clocks.NARROW_AT = sample_clocks.NARROW_AT, narrow_at
    try:
        stats = of.solve(case, case.y0, case.t, solver=Dopri5(TOLERANCE, TOLERANCE, per_sample=True)).stats
    finally:
        sample_clocks.NARROW_AT = usual
    accepted = stats.accepted_per_sample
    assert accepted is not None
    return float(accepted.double().mean()), int(accepted.max())


def torchode(case: Case) -> Steps:
    """The same by torchode."""
    import torchode

    term, control = torchode.ODETerm(case, with_stats=False), torchode.IntegralController(TOLERANCE, TOLERANCE)
    problem = torchode.InitialValueProblem(case.y0, case.t[:, 0], case.t[:, 1])
    accepted = torchode.AutoDiffAdjoint(torchode.Dopri5(), control).solve(problem, term).stats["n_accepted"]
    return float(accepted.double().mean()), int(accepted.max())


ENGINES: dict[str, Callable[[Case], Steps]] = {
    "together": together,
    "per sample": apart,
    "per sample, none left out": lambda case: apart(case, 0.0),
    "per sample, left out at 1/2": lambda case: apart(case, 0.5),
    "per sample, left out at once": lambda case: apart(case, 1.0),
}
if importlib.util.find_spec("torchode"):
    ENGINES["torchode"] = torchode


def measure(case: Case, rounds: int) -> list[list[str]]:
    """A row of the table for each engine."""
    rows: dict[str, list[str]] = {}
    times: dict[str, list[float]] = {name: [] for name in ENGINES}
    for turn in range(rounds + 1):
        for name, engine in ENGINES.items():
            case.calls = case.rows = 0
            start = time.process_time()
            mean, largest = engine(case)
            if turn:  # the first is to warm up
                times[name].append(1e3 * (time.process_time() - start))
            rows[name] = [f"{mean:.0f}", str(largest), str(case.calls), str(case.rows)]
    return [[case.name, name, *row, f"{statistics.median(times[name]):.0f}"] for name, row in rows.items()]


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    header = ("case", "steps", "mean", "largest", "calls of the field", "samples in them", "ms")
    for name in options.cases:
        for make in CASES[name]:
            with torch.no_grad():
                rows = measure(make(), options.rounds)
            print(table(header, rows), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
