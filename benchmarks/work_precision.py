"""Work and precision: errors against evaluations of the field, a row of panels for each family of solvers.

    python benchmarks/work_precision.py docs/work_precision.png
    python benchmarks/work_precision.py implicit.png --rows Implicit

Takes about three minutes of one core. The last panel is energy over time, for which symplectic methods are made.
"""

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path

import detest_problems
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import stiff_problems
import torch
from initial_value import D, InitialValueProblem, states
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

import odeflow as of
from odeflow.engine.loop.stepper import Stepper
from odeflow.plugin.registry import discover, look_up

DETEST = {problem.name: problem for problem in detest_problems.problems()}
STIFF = {problem.name: problem for problem in stiff_problems.problems()}
TOLERANCES = [10.0**-power for power in range(2, 13)]
STEPS = [20 * 2**power for power in range(10)]
LOW_ORDER_TOLERANCE = 1e-6
"""No tighter for methods of an order below 4, which would take very many steps."""
REFERENCE = "0.6"
"""The colour of methods of another family, drawn for comparison."""


def truth(problem: InitialValueProblem) -> Tensor:
    """(d,), the state at the end by scipy, at the edge of float64."""
    method, rtol = ("Radau", 1e-12) if problem.name in STIFF else ("DOP853", 1e-13)
    return states(problem.by_scipy(method, rtol, 1e-2 * rtol * problem.part))[-1]


@dataclass(frozen=True)
class Line:
    """A solver of a row.

    Attributes:
        name: Of its class.
        order: Of the multistep methods.
        colour: Its number in the palette, or a colour.
    """

    name: str
    colour: int | str
    order: int | None = None

    @property
    def cls(self) -> type[of.Solver]:
        """Its class."""
        return look_up("solver", self.name)

    @property
    def adaptive(self) -> bool:
        """Whether it chooses its steps."""
        return issubclass(self.cls, Stepper) and self.cls.error_order is not None

    @property
    def style(self) -> dict[str, object]:
        """How it is drawn."""
        colour = self.colour if isinstance(self.colour, str) else mpl.colormaps["tab10"](self.colour)
        own = {"linestyle": "-", "marker": "o"} if self.adaptive else {"linestyle": "--", "marker": "s"}
        shade = {"linewidth": 1.0, "zorder": 1} if isinstance(self.colour, str) else {"linewidth": 1.6, "zorder": 2}
        if self.name == "AdamsBashforthMoulton":
            own["linestyle"] = "-"
        label = f"{self.name} {self.order}" if self.order else f"{self.name} ({self.cls.order})"
        return {"color": colour, "markersize": 3.5, "label": label, **own, **shade}

    def solver(self, setting: float, part: float, most: int) -> of.Solver:
        """The solver at a tolerance, or with a number of steps."""
        options: dict[str, object] = {} if self.order is None else {"order": self.order}
        if not self.adaptive:
            return self.cls(**options, num_steps=int(setting))
        return self.cls(rtol=setting, atol=setting * part, max_steps=most)


@dataclass(frozen=True)
class Row:
    """A family of solvers on its problems.

    Attributes:
        title: The family.
        problems: Its problems.
        lines: Its solvers.
        most: Evaluations beyond which a curve ends.
        energies: Solvers whose error of the energy is drawn, with their steps a revolution or their tolerance.
    """

    title: str
    problems: tuple[InitialValueProblem, ...]
    lines: tuple[Line, ...]
    most: int = 20_000
    energies: tuple[tuple[Line, float], ...] = ()


def _numbered(*names: str) -> tuple[Line, ...]:
    return tuple(Line(name, number) for number, name in enumerate(names))


def _detest(name: str, title: str) -> InitialValueProblem:
    return replace(DETEST[name], name=f"{name}: {title}")


SMOOTH = (_detest("B5", "rigid body"), _detest("D2", "two bodies, e = 0.3"), _detest("E2", "Van der Pol, μ = 1"))
ORBITS = (SMOOTH[1], _detest("C5", "five outer planets"))
ADAMS = tuple(
    Line(name, number, order)
    for name in ("AdamsBashforth", "AdamsBashforthMoulton")
    for number, order in enumerate((2, 4, 6))
)
LEAPFROG, YOSHIDA4 = _numbered("Leapfrog", "Yoshida4")
RK4_BESIDE, DOPRI5_BESIDE = Line("RK4", REFERENCE), Line("Dopri5", REFERENCE)
ROWS = (
    Row(
        "Explicit, equal steps",
        SMOOTH,
        _numbered("Euler", "Midpoint", "Heun", "Ralston", "Kutta3", "RK4", "RK38"),
    ),
    Row(
        "Explicit, adaptive",
        SMOOTH,
        _numbered("HeunEuler", "Bosh3", "Fehlberg45", "CashKarp45", "Dopri5", "Tsit5", "Dopri8"),
    ),
    Row("Multistep", SMOOTH, (*ADAMS, RK4_BESIDE)),
    Row(
        "Implicit",
        (SMOOTH[2], replace(STIFF["Van der Pol, μ = 1000"], end=500.0), STIFF["HIRES"]),
        _numbered("ImplicitEuler", "ImplicitMidpoint", "Trapezoid", "Kvaerno3", "Kvaerno5", "Rodas4"),
        most=10_000,
    ),
    Row(
        "Symplectic",
        ORBITS,
        (LEAPFROG, YOSHIDA4, RK4_BESIDE, DOPRI5_BESIDE),
        energies=((LEAPFROG, 120), (YOSHIDA4, 40), (RK4_BESIDE, 60), (DOPRI5_BESIDE, 5e-7)),
    ),
)


def curve(line: Line, problem: InitialValueProblem, end: Tensor, most: int) -> tuple[list[int], list[float]]:
    """(evaluations, largest error at the end) at each tolerance or number of steps."""
    nfe, errors = list[int](), list[float]()
    for setting in TOLERANCES if line.adaptive else STEPS:
        if line.adaptive and line.cls.order < 4 and setting < LOW_ORDER_TOLERANCE:
            continue
        if len(nfe) > 1 and nfe[-1] ** 2 > most * nfe[-2]:  # the next would probably take too many
            break
        try:
            with torch.no_grad():
                solver = line.solver(setting, problem.part, most)
                solution = of.solve(problem.field, problem.y0, [0.0, problem.end], solver=solver)
        except of.SolveError:
            continue
        error = float((solution.y[-1] - end).abs().max())
        if solution.stats.nfe_forward <= most and error < 10:
            nfe.append(solution.stats.nfe_forward)
            errors.append(max(error, 1e-15))
    return nfe, errors


def energy(line: Line, setting: float) -> tuple[np.ndarray, np.ndarray, int]:
    """(revolutions, largest error of the energy in each, evaluations a revolution) of problem D2 over many of them."""
    problem, turns, looks = DETEST["D2"], 500, 16
    t = torch.linspace(0, 2 * math.pi * turns, looks * turns + 1, dtype=D)
    with torch.no_grad():
        solver = line.solver(setting if line.adaptive else setting * turns, 1.0, 10**7)
        solution = of.solve(problem.field, problem.y0, t, solver=solver)
    position, velocity = solution.y.unflatten(-1, (2, 2)).unbind(1)
    energies = velocity.square().sum(1) / 2 - 1 / position.norm(dim=1)
    errors = (energies - energies[0]).abs()[1:].view(turns, looks).amax(1)
    return np.arange(1, turns + 1), errors.numpy(), round(solution.stats.nfe_forward / turns)


def draw_energies(axes: Axes, row: Row) -> None:
    """Errors of the energy over time."""
    for line, setting in row.energies:
        turns, errors, nfe = energy(line, setting)
        style = {**line.style, "marker": "", "linestyle": "-" if line.adaptive else line.style["linestyle"]}
        axes.loglog(turns, errors, **style)
        print(f"{line.name}: {nfe} evaluations a revolution, energy error {errors[0]:.1e} to {errors[-1]:.1e}")
    axes.set_title("D2: two bodies, 190 to 260 evaluations a revolution", fontsize=10)
    axes.set_xlabel("revolutions", fontsize=9)
    axes.set_ylabel("error of the energy", fontsize=9)


def draw(figure: SubFigure, row: Row) -> None:
    """One family's panels, with their legend."""
    figure.suptitle(row.title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    *panels, beside = figure.subplots(1, 4, width_ratios=(1, 1, 1, 0.5))
    for axes, problem in zip(panels, row.problems, strict=False):
        end = truth(problem)
        for line in row.lines:
            nfe, errors = curve(line, problem, end, row.most)
            axes.loglog(nfe, errors, **line.style)
        axes.set_title(problem.name, fontsize=10)
        axes.set_xlabel("evaluations of the field", fontsize=9)
    if row.energies:
        draw_energies(panels[-1], row)
    for axes in panels:
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(numticks=8))
    panels[0].set_ylabel("error at the end", fontsize=9)
    beside.axis("off")
    beside.legend(*panels[0].get_legend_handles_labels(), loc="center left", fontsize=9, frameon=False)


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--rows", nargs="+", choices=[row.title for row in ROWS], help="families; by default all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    discover()
    rows = [row for row in ROWS if options.rows is None or row.title in options.rows]
    figure = plt.figure(figsize=(14, 3.7 * len(rows)), layout="constrained")
    for part, row in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        draw(part, row)
    figure.savefig(options.picture, dpi=110)


if __name__ == "__main__":
    main()
