"""What a training step of `LatentODE` takes on irregular series, beside that on regular ones of as many observations.

    python benchmarks/series.py --batch 256 --observations 50

Regular series share their equidistant times; the times of irregular ones are random, and each series has its own. Times
are medians over the steps, of one thread, in seconds of the processor.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from compare import table
from torch import Tensor

import odeflow as of
from odeflow_dynamics import MLP
from odeflow_solvers import RK4, Dopri5, Euler
from odeflow_tasks import LatentODE, ODERNNEncoder, RNNEncoder

HEADER = ("model", "regular, ms", "irregular, ms", "ratio")


def series(t: Tensor) -> of.Series:
    """Waves of two features at the times t (B, T), all seen and all to be predicted."""
    phase = torch.rand(len(t), 1)
    y = torch.stack([torch.sin(6 * t + 6 * phase), torch.cos(6 * t + 6 * phase)], dim=-1)
    everything = torch.ones_like(y, dtype=torch.bool)
    return of.Series(t, y, everything, everything)


def batches(batch: int, observations: int) -> list[of.Series]:
    """A regular one and an irregular one."""
    regular = torch.linspace(0, 1, observations).expand(batch, -1).contiguous()
    irregular = torch.rand(batch, observations).sort(1).values
    return [series(regular), series(irregular)]


def model(latent: int, encoder: str, solver: of.Solver) -> LatentODE:
    """A latent ODE with fields of one hidden layer of 50 units."""
    reader = RNNEncoder() if encoder == "rnn" else ODERNNEncoder(MLP(25, [50], time="none"), Euler(num_steps=1))
    return LatentODE(MLP(latent, [50], time="none"), solver, dim=2, encoder=reader)


def seconds(task: LatentODE, batch: of.Series, steps: int) -> float:
    """Of a training step."""
    times: list[float] = []
    for _ in range(steps + 1):
        start = time.process_time()
        task.loss(batch, "train").backward()
        task.zero_grad()
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


def rows(batch: int, observations: int, steps: int) -> list[list[str]]:
    """The table's rows, one for each model."""
    torch.manual_seed(0)
    regular, irregular = batches(batch, observations)
    solvers: dict[str, Callable[[], of.Solver]] = {"Dopri5": Dopri5, "RK4, 20 steps": lambda: RK4(num_steps=20)}
    found: list[list[str]] = []
    for latent in (4, 20):
        for encoder in ("rnn", "ode_rnn"):
            for name, solver in solvers.items():
                task = model(latent, encoder, solver())
                task.log = lambda *args, **kwargs: None
                first, second = (1e3 * seconds(task, each, steps) for each in (regular, irregular))
                label = f"{encoder}, latent size {latent}, {name}"
                found.append([label, f"{first:.0f}", f"{second:.0f}", f"{second / first:.2f}"])
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--observations", type=int, default=50)
    parser.add_argument("--steps", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(table(HEADER, rows(given.batch, given.observations, given.steps)))


if __name__ == "__main__":
    main()
