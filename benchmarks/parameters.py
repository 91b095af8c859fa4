"""Are estimated parameters within their standard errors? Simulated experiments, fitted for ten seeds of the noise.

python benchmarks/parameters.py [PROBLEM …] [--seeds 10]

For each problem and parameter: the truth, the mean and standard deviation of the estimates over the seeds, the mean
standard error, and how many true values are within two standard errors. Of lotka_volterra the first seed is also
fitted by scipy, and by other optimizers.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares
from torch import Tensor

from odeflow_data import Trajectories
from odeflow_dynamics import Equations
from odeflow_solvers import Dopri5
from odeflow_tasks import Initial, LevenbergMarquardt, Trajectory

STEPS = 25
"""Maximum number of steps of a fit."""
Table = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """An experiment.

    Attributes:
        equations: The model.
        truth: Its parameters.
        guess: By what factor the initial values differ from the truth.
        table: Random numbers ↦ the columns of a file.
        data: Options of `Trajectories`.
        initial: How the initial states are determined.
        constants: Of the model.
        inputs: Of the model.
    """

    equations: dict[str, str]
    truth: dict[str, float]
    guess: float
    table: Callable[[np.random.Generator], Table]
    data: dict[str, Any]
    initial: Initial
    constants: dict[str, float] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)


def solved(slope: Callable[[float, np.ndarray], list[float]], start: list[float], t: np.ndarray) -> np.ndarray:
    """(d, T), the exact states."""
    return solve_ivp(slope, (t[0], t[-1]), start, "DOP853", t, rtol=1e-10, atol=1e-10).y


def sir(random: np.random.Generator) -> Table:
    """An epidemic among 1000, of whom 800 are susceptible at first; only the infected are counted."""
    t = np.arange(0.0, 61.0, 2.0)
    _, infected = solved(lambda _, y: [-0.5 * y[0] * y[1] / 1000, 0.5 * y[0] * y[1] / 1000 - 0.15 * y[1]], [800, 10], t)
    return {"day": t, "infected": infected + 5 * random.normal(size=len(t))}


def absorption(t: float, y: np.ndarray) -> list[float]:
    """From the gut into the blood and out of it."""
    return [-1.2 * y[0], 1.2 * y[0] / 20 - 3 / 20 * y[1]]


def pharmacokinetics(random: np.random.Generator) -> Table:
    """Four patients with three oral doses of 100 mg, 12 h apart, and ten blood samples each at times of their own."""
    columns: dict[str, list[float]] = {"patient": [], "hour": [], "dose": [], "blood": []}
    for patient in range(4):
        doses = {0.0, 12.0, 24.0}
        hours = sorted(doses | set(np.round(random.uniform(0.2, 36, 10), 2).tolist()))
        gut, blood, now = 0.0, 0.0, 0.0
        for hour in hours:
            if hour > now:
                (_, gut), (_, blood) = solved(absorption, [gut, blood], np.array([now, hour]))
            columns["patient"].append(patient)
            columns["hour"].append(hour)
            columns["dose"].append(100.0 if hour in doses else np.nan)
            columns["blood"].append(np.nan if hour in doses else blood + 0.15 * random.normal())
            gut, now = gut + 100 * (hour in doses), hour
    return columns


def oscillator(random: np.random.Generator) -> Table:
    """A driven, damped oscillator: the force is logged each 0.1, the position at a third of these times."""
    t = np.round(np.arange(0.0, 20.05, 0.1), 1)
    force = np.sin(0.9 * t) + 0.5 * np.sign(np.sin(0.31 * t))

    def slope(now: float, y: np.ndarray) -> list[float]:
        return [y[1], -2 * y[0] - 0.25 * y[1] + 1.5 * np.interp(now, t, force)]

    position, _ = solve_ivp(slope, (0, 20), [1, 0], "RK45", t, rtol=1e-9, atol=1e-9, max_step=0.05).y
    seen = np.sort(random.choice(len(t), len(t) // 3, replace=False))
    x = np.full(len(t), np.nan)
    x[seen] = position[seen] + 0.1 * random.normal(size=len(seen))
    return {"t": t, "force": force, "x": x}


def lotka_volterra(random: np.random.Generator) -> Table:
    """Prey and predators of two populations at irregular times, a fifth of the cells empty."""
    columns: dict[str, list[float]] = {"site": [], "t": [], "prey": [], "predators": []}
    for site, start in enumerate(([10.0, 5.0], [20.0, 8.0])):
        t = np.concatenate([[0.0], np.sort(random.uniform(0, 12, 29))])
        y = solved(lambda _, y: [y[0] * (1 - 0.1 * y[1]), y[1] * (0.075 * y[0] - 1.5)], start, t)
        y += np.array([[1.0], [0.5]]) * random.normal(size=y.shape)
        y[random.random(y.shape) < 0.2] = np.nan
        for name, values in zip(columns, ([site] * len(t), t, *y), strict=True):
            columns[name] += list(values)
    return columns


PROBLEMS = {
    "sir": Problem(
        {"susceptible": "-beta*susceptible*infected/N", "infected": "beta*susceptible*infected/N - gamma*infected"},
        {"beta": 0.5, "gamma": 0.15, "susceptible(0)": 800.0, "infected(0)": 10.0},
        1.3,
        sir,
        {"time": "day", "states": ["susceptible", "infected"], "hidden": ["susceptible"]},
        Initial("learned", {"susceptible": 950.0}),
        {"N": 1000.0},
    ),
    "pharmacokinetics": Problem(
        {"gut": "-ka*gut", "blood": "ka*gut/V - CL/V*blood"},
        {"ka": 1.2, "CL": 3.0, "V": 20.0},
        1.5,
        pharmacokinetics,
        {
            "time": "hour",
            "series": "patient",
            "states": ["gut", "blood"],
            "hidden": ["gut"],
            "doses": {"gut": "dose"},
        },
        Initial(start={"gut": 0.0, "blood": 0.0}, known=["gut", "blood"]),
    ),
    "oscillator": Problem(
        {"x": "v", "v": "-k*x - c*v + g*force"},
        {"k": 2.0, "c": 0.25, "g": 1.5},
        1.2,
        oscillator,
        {"time": "t", "states": ["x", "v"], "hidden": ["v"], "covariates": ["force"]},
        Initial("learned"),
        inputs=["force"],
    ),
    "lotka_volterra": Problem(
        {"prey": "alpha*prey - beta*prey*predators", "predators": "delta*prey*predators - gamma*predators"},
        {"alpha": 1.0, "beta": 0.1, "gamma": 1.5, "delta": 0.075},
        0.9,
        lotka_volterra,
        {"time": "t", "series": "site"},
        Initial("learned"),
    ),
}


def prepared(problem: Problem, seed: int) -> tuple[Trajectory, Any]:
    """The task, and its data as one batch."""
    names = [name for name in problem.truth if not name.endswith("(0)")]
    guess = {name: problem.truth[name] * problem.guess for name in names}
    equations = Equations(problem.equations, guess, problem.constants, inputs=problem.inputs)
    task = Trajectory(equations, Dopri5(1e-6, 1e-7), distance="nll", initial=problem.initial).double()
    table: Any = problem.table(np.random.default_rng(seed))
    data = Trajectories(table, **problem.data)
    data.setup("test")
    (batch,) = data.train_dataloader()
    return task, batch


def fitted(task: Trajectory, batch: Any, steps: int = STEPS) -> int:
    """Fits by Levenberg–Marquardt until the loss no longer falls; returns the number of steps."""
    optimizer = LevenbergMarquardt(task.parameters())
    optimizer.problem, losses = task, [np.inf]
    for step in range(steps):
        with torch.no_grad():
            losses.append(float(optimizer.step(lambda: task.loss(batch, "train"))))
        if losses[-2] - losses[-1] < 1e-9:
            return step
    return steps


def compared(name: str, seeds: int) -> Iterator[str]:
    """The lines of a problem's table."""
    problem, rows, times, steps = PROBLEMS[name], [], [], []
    for seed in range(seeds):
        task, batch = prepared(problem, seed)
        began = time.process_time()
        steps.append(fitted(task, batch))
        found = {row["name"]: row for row in task.parameters_table().iter_rows(named=True)}
        times.append(time.process_time() - began)
        rows.append([(found[each]["estimate"], found[each]["std_error"]) for each in problem.truth])
    estimates, errors = np.array(rows).transpose(2, 0, 1)
    truth = np.array(list(problem.truth.values()))
    within = np.abs(estimates - truth) <= 2 * errors
    yield f"{name}: {within.sum()} of {within.size} within two standard errors ({within.mean():.0%}); a fit takes "
    yield f"{np.mean(times):.1f} s of CPU, {np.mean(steps):.0f} steps (most {max(steps)})"
    yield f"{'':16}{'truth':>10}{'mean':>10}{'sd':>10}{'mean SE':>10}{'within':>8}"
    for number, each in enumerate(problem.truth):
        found, error = estimates[:, number], errors[:, number]
        yield (
            f"{each:16}{truth[number]:10.4g}{found.mean():10.4g}{found.std(ddof=1):10.3g}{error.mean():10.3g}"
            f"{within[:, number].sum():5d}/{seeds}"
        )


def by_scipy() -> Iterator[str]:
    """The first seed of lotka_volterra, fitted by scipy with the same weights."""
    task, batch = prepared(PROBLEMS["lotka_volterra"], 0)
    fitted(task, batch)
    found = list(task.parameters_table().iter_rows(named=True))
    table, std = lotka_volterra(np.random.default_rng(0)), task.noise_std.numpy()
    site, t = np.array(table["site"]), np.array(table["t"])
    y = np.stack([table["prey"], table["predators"]])

    def residuals(params: np.ndarray) -> np.ndarray:
        alpha, beta, gamma, delta = np.exp(params[:4])

        def slope(t: float, y: np.ndarray) -> list[float]:
            return [y[0] * (alpha - beta * y[1]), y[1] * (delta * y[0] - gamma)]

        parts = [solved(slope, list(params[4 + 2 * each : 6 + 2 * each]), t[site == each]) for each in (0, 1)]
        error = (np.concatenate(parts, axis=1) - y) / std[:, None]
        return error[~np.isnan(error)]

    start = [row["estimate"] for row in found]
    oracle = least_squares(residuals, [*np.log(start[:4]), *start[4:]], xtol=1e-12, ftol=1e-12, x_scale="jac")
    covariance = np.linalg.inv(oracle.jac.T @ oracle.jac) * len(oracle.fun) / (len(oracle.fun) - len(start))
    errors = np.sqrt(np.diag(covariance)) * np.array([*np.exp(oracle.x[:4]), *[1] * 4])
    wanted = np.array([*np.exp(oracle.x[:4]), *oracle.x[4:]])
    far = np.abs([row["estimate"] for row in found] / wanted - 1).max()
    off = np.abs([row["std_error"] for row in found] / errors - 1).max()
    yield f"scipy: estimates differ by at most {far:.1e}, standard errors by {off:.1e} (relative)"


def by_others() -> Iterator[str]:
    """The first seed of lotka_volterra by other optimizers: how far from its minimum the loss ends, and how soon."""
    task, batch = prepared(PROBLEMS["lotka_volterra"], 0)
    began = time.process_time()
    steps = fitted(task, batch)
    best = float(task.loss(batch, "train").detach())
    yield f"LevenbergMarquardt: {steps} steps, {time.process_time() - began:.1f} s"
    makers: dict[str, tuple[Callable[[Iterable[Tensor]], torch.optim.Optimizer], int]] = {
        "LBFGS": (lambda params: torch.optim.LBFGS(params, max_iter=10, line_search_fn="strong_wolfe"), 10),
        "Adam": (lambda params: torch.optim.Adam(params, lr=0.03), 300),
    }
    for name, (make, count) in makers.items():
        task, batch = prepared(PROBLEMS["lotka_volterra"], 0)
        task.loss(batch, "train")
        chosen, began = make(task.parameters()), time.process_time()

        def closure(chosen: Any = chosen, task: Trajectory = task, batch: Any = batch) -> Any:
            chosen.zero_grad()
            loss = task.loss(batch, "train")
            loss.backward()
            return loss

        for _ in range(count):
            chosen.step(closure)
        taken, left = time.process_time() - began, float(task.loss(batch, "train").detach()) - best
        yield f"{name}: {count} steps, {taken:.1f} s, loss {left:.1e} above the minimum"


def main(words: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help=", ".join(PROBLEMS))
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args(words)
    torch.set_default_dtype(torch.float64)
    for name in options.problems or PROBLEMS:
        print("\n".join(compared(name, options.seeds)), flush=True)
        if name == "lotka_volterra":
            print("\n".join([*by_scipy(), *by_others()]), flush=True)


if __name__ == "__main__":
    main()
