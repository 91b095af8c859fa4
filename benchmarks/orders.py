"""Observed orders of every registered solver, as tables for docs/solver_measurements.md; about two minutes.

python benchmarks/orders.py
"""

from collections.abc import Callable, Iterable

import torch

import odeflow as of
from odeflow.engine.loop.stepper import Stepper
from odeflow.plugin.registry import discover, plugins
from odeflow.testing import PARTICLE, SPIRAL, observed_order

FAMILIES: dict[type[of.Solver], str] = {
    of.RungeKutta: "explicit",
    of.Multistep: "multistep",
    of.ImplicitRungeKutta: "implicit",
    of.Rosenbrock: "Rosenbrock",
    of.Symplectic: "symplectic",
    of.Solver: "torchdiffeq's `rk4`",
}
ADAMS_ORDERS = range(1, 9)
MANY_STEPS: dict[str, tuple[int, ...]] = {"AdamsBashforth": (192, 208, 224), "AdamsBashforthMoulton": (96, 112, 128)}
"""For orders above 5: enough for the method to be stable on the problem, too few for errors to drown in rounding."""


def registered() -> dict[str, type[of.Solver]]:
    """The solvers that come with odeflow, by name."""
    discover()
    found = plugins("solver").items()
    return {name: cls for name, cls in found if cls.__module__.startswith("odeflow_solvers.")}


def subject(cls: type[of.Solver]) -> type[of.Solver] | Callable[[float], of.Solver]:
    """What `observed_order` measures of a solver: itself, or what makes one that takes steps of size h."""
    if cls.__name__ != "TorchDiffEq":
        return cls
    return lambda h: cls("rk4", options={"step_size": h, "interp": "cubic"})


def family(cls: type[of.Solver]) -> tuple[int, bool]:
    """The number of the family of methods to which a solver belongs, and whether it can adapt its steps."""
    number = next(number for number, base in enumerate(FAMILIES) if issubclass(cls, base))
    return number, issubclass(cls, Stepper) and cls.error_order is not None


def table(solvers: Iterable[type[of.Solver]]) -> str:
    """Markdown: the order that each solver claims, and those that are observed at the end and inside the steps."""
    lines = ["| solver | family | order | observed at the end | observed inside the steps |", "|---|---|---|---|---|"]
    names = list(FAMILIES.values())
    claimed = {cls: 4 if cls.__name__ == "TorchDiffEq" else cls.order for cls in solvers}
    for cls, order in sorted(claimed.items(), key=lambda pair: (family(pair[0]), pair[1], pair[0].__name__)):
        problem = PARTICLE if issubclass(cls, of.Symplectic) else SPIRAL
        end, inside = observed_order(subject(cls), problem=problem)
        number, adaptive = family(cls)
        kind = names[number] + ", adaptive" * adaptive
        lines.append(f"| {cls.__name__} | {kind} | {order} | {end:.2f} | {inside:.2f} |")
    return "\n".join(lines)


def adams_table(solvers: Iterable[type[of.Multistep]]) -> str:
    """Markdown: the same for every order of the multistep methods."""
    lines = [f"| solver | observed | {' | '.join(map(str, ADAMS_ORDERS))} |", f"|---|---|{'---|' * len(ADAMS_ORDERS)}"]
    for cls in solvers:
        found: list[tuple[float, float]] = []
        for order in ADAMS_ORDERS:
            steps = MANY_STEPS[cls.__name__] if order > 5 else None
            found.append(observed_order(cls(order=order, num_steps=1), steps=steps))
        for where, values in zip(("at the end", "inside the steps"), zip(*found, strict=True), strict=True):
            lines.append(f"| {cls.__name__} | {where} | {' | '.join(f'{value:.2f}' for value in values)} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the tables."""
    torch.set_num_threads(1)
    solvers = registered().values()
    print(table(solvers))
    print()
    print(adams_table(cls for cls in solvers if issubclass(cls, of.Multistep)))


if __name__ == "__main__":
    main()
