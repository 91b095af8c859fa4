"""Radioactive decay dN/dt = −λN on a fixed grid: how the error of a method falls with its step, without Lightning.

python examples/decay.py [PICTURE.png]
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import odeflow as of
from odeflow_solvers import RK4, Euler, Midpoint

RATE, END = 1.0, 5.0
STEPS = (10, 20, 40, 80)
METHODS: tuple[type[of.RungeKutta], ...] = (Euler, Midpoint, RK4)


def decay(t: Tensor, amount: Tensor) -> Tensor:
    """The law: what decays is in proportion to what is there."""
    return -RATE * amount


def solution(method: type[of.RungeKutta], steps: int) -> tuple[Tensor, Tensor]:
    """(steps + 1,), the times of the grid, and the amounts that the method finds there."""
    t = torch.linspace(0, END, steps + 1, dtype=torch.float64)
    amounts = of.solve(decay, torch.ones(1, dtype=torch.float64), t, solver=method(num_steps=steps), params=()).y
    return t, amounts[:, 0]


def error(method: type[of.RungeKutta], steps: int) -> float:
    """The largest distance on the grid from exp(−λt), the analytic solution."""
    t, amounts = solution(method, steps)
    return float((amounts - torch.exp(-RATE * t)).abs().max())


def draw(path: Path) -> None:
    """The coarsest solutions beside the analytic one, and the errors against the step."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    amounts, errors = figure.subplots(1, 2)
    t = torch.linspace(0, END, 201, dtype=torch.float64)
    amounts.plot(t, torch.exp(-RATE * t), color="black", label="analytic")
    sizes = [END / steps for steps in STEPS]
    for method, marker in zip(METHODS, "os^", strict=True):
        amounts.plot(*solution(method, STEPS[0]), marker, linestyle="--", linewidth=0.8, label=method.__name__)
        name = f"{method.__name__}, order {method.order}"
        errors.loglog(sizes, [error(method, steps) for steps in STEPS], f"{marker}-", label=name)
    amounts.set(xlabel="$t$", ylabel="$N$", title=f"{STEPS[0]} steps")
    errors.set(xlabel="step", ylabel="largest error", title="error")
    errors.set_xticks(sizes, [f"{size:g}" for size in sizes], minor=False)
    errors.set_xticks([], minor=True)
    errors.grid(alpha=0.3)
    for axes in (amounts, errors):
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Prints the errors, and the order at which each falls from one grid to the next."""
    print(f"{'steps':>8}" + "".join(f"{steps:>11}" for steps in STEPS) + "   order")
    for method in METHODS:
        errors = [error(method, steps) for steps in STEPS]
        order = torch.tensor(errors[-2] / errors[-1]).log2()
        print(f"{method.__name__:>8}" + "".join(f"{value:>11.2e}" for value in errors) + f"{order:>8.2f}")


if __name__ == "__main__":
    main()
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]))
