"""Compares fixed Euler–Maruyama steps with a plain loop, torchsde and, where installed, diffrax, on one thread.

    python benchmarks/sde.py
    python benchmarks/sde.py --batch 256 --steps 100 --rounds 9 --markdown table.md

The equation has the nets of the latent SDE of Lorenz's attractor: drift 4-100-4, and for each of four entries a
diffusion 1-100-1, all with softplus; with `--divergence` also the drift of a prior and ½|(f − h)/g|² as a state. The
plain loop is what one writes without a library: `y = y + f * h + g * randn(…) * h ** 0.5`, recorded by autograd.
torchsde's Brownian motion is told the step size beforehand, without which it takes many times as long. diffrax is
compiled, which is not counted; its path is `UnsafeBrownianPath` forward, and `VirtualBrownianTree` with the gradient,
for which the former does not work.

Each engine runs once a round, and they take turns in being first. Times are CPU times of the process, medians over the
rounds, after one round that is not counted.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import odeflow as of
from odeflow_dynamics import MLP
from odeflow_sde import Entrywise, EulerMaruyama, NeuralSDE
from odeflow_sde.posterior_sde import PosteriorSDE

LATENT, HIDDEN = 4, 100
Run = Callable[[bool], None]
"""Solves once; with the argument also differentiates the sum of squares at the end."""


def equation(divergence: bool) -> of.Stochastic | PosteriorSDE:
    """The equation, with equal weights each time."""
    torch.manual_seed(0)
    drift, prior = (MLP(LATENT, [HIDDEN], "softplus", "none") for _ in range(2))
    spread = Entrywise(LATENT, HIDDEN)
    return PosteriorSDE(drift, prior, spread, "ito") if divergence else NeuralSDE(drift, spread)


def differentiated(y: Tensor, field: nn.Module, gradient: bool) -> None:
    """The backward pass, if `gradient`."""
    if gradient:
        field.zero_grad()
        y.square().mean().backward()


def plain(field: of.Stochastic | PosteriorSDE, y0: Tensor, steps: int) -> Run:
    """By a loop as one writes it."""
    h = 1 / steps

    def run(gradient: bool) -> None:
        with torch.set_grad_enabled(gradient):
            y = y0
            for number in range(steps):
                f, g = field.both(torch.tensor(number * h), y)
                y = y + f * h + g * torch.randn(y.shape) * h**0.5
        differentiated(y, field, gradient)

    return run


def ours(field: of.Stochastic | PosteriorSDE, y0: Tensor, steps: int, method: of.Gradient) -> Run:
    """By odeflow."""
    flow = of.Flow(field, EulerMaruyama(num_steps=steps), method)

    def run(gradient: bool) -> None:
        with torch.set_grad_enabled(gradient):
            y = flow(y0)
        differentiated(y, field, gradient)

    return run


def theirs(field: of.Stochastic | PosteriorSDE, y0: Tensor, steps: int) -> Run | None:
    """By torchsde, if it is installed."""
    try:
        import torchsde
    except ImportError:
        return None

    class Problem(nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def __init__(self) -> None:
            super().__init__()
            self.field = field

        def f(self, t: Tensor, y: Tensor) -> Tensor:
            return self.field(t, y)

        def g(self, t: Tensor, y: Tensor) -> Tensor:
            return self.field.diffusion(t, y)

        def f_and_g(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return self.field.both(t, y)

    problem, times = Problem(), torch.tensor([0.0, 1.0])

    def run(gradient: bool) -> None:
        path = torchsde.BrownianInterval(0.0, 1.0, size=y0.shape, dt=1 / steps)
        with torch.set_grad_enabled(gradient):
            y = torchsde.sdeint(problem, y0, times, bm=path, method="euler", dt=1 / steps)[-1]
        differentiated(y, field, gradient)

    return run


def with_diffrax(field: of.Stochastic | PosteriorSDE, y0: Tensor, steps: int) -> Run | None:
    """By diffrax, compiled, if it is installed; the equation without divergence."""
    try:
        import diffrax
        import jax
        import jax.numpy as jnp
        import lineax
    except ImportError:
        return None
    if not isinstance(field, NeuralSDE):
        return None
    weights = jax.tree.map(lambda tensor: jnp.asarray(tensor.detach().numpy()), dict(field.named_parameters()))

    def drift(t, y, w):
        hidden = jax.nn.softplus(y @ w["drift.layers.0.weight"].T + w["drift.layers.0.bias"])
        return hidden @ w["drift.layers.2.weight"].T + w["drift.layers.2.bias"]

    def spread(t, y, w):
        hidden = jax.nn.softplus(w["spread.bias"] + y[..., None] * w["spread.weight"])
        g = jax.nn.sigmoid((hidden * w["spread.out"]).sum(-1) + w["spread.shift"])
        return lineax.DiagonalLinearOperator(0.01 + 0.99 * g)

    def loss(w, y, key, gradient):
        shape = jax.ShapeDtypeStruct(y.shape, y.dtype)
        if gradient:
            path = diffrax.VirtualBrownianTree(0.0, 1.0, tol=0.5 / steps, shape=shape, key=key)
        else:
            path = diffrax.UnsafeBrownianPath(shape=shape, key=key)
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(spread, path))
        adjoint = diffrax.RecursiveCheckpointAdjoint() if gradient else diffrax.ForwardMode()
        options = {"saveat": diffrax.SaveAt(t1=True), "max_steps": steps + 1, "adjoint": adjoint}
        y = diffrax.diffeqsolve(terms, diffrax.Euler(), 0.0, 1.0, 1 / steps, y, w, **options).ys[-1]
        return (y**2).mean()

    start = jnp.asarray(y0.numpy())
    value = jax.jit(lambda w, y, key: loss(w, y, key, False))
    slope = jax.jit(jax.grad(lambda w, y, key: loss(w, y, key, True)))
    keys = itertools.count()

    def run(gradient: bool) -> None:
        jax.block_until_ready((slope if gradient else value)(weights, start, jax.random.key(next(keys))))

    return run


def engines(batch: int, steps: int, divergence: bool) -> dict[str, Run]:
    """The runs by name."""
    y0 = torch.zeros(batch, LATENT + divergence)
    found = {
        "plain loop": plain(equation(divergence), y0, steps),
        "odeflow, Backprop": ours(equation(divergence), y0, steps, of.Backprop()),
        "odeflow, Checkpointed": ours(equation(divergence), y0, steps, of.Checkpointed()),
        "torchsde": theirs(equation(divergence), y0, steps),
        "diffrax": with_diffrax(equation(divergence), y0, steps),
    }
    return {name: run for name, run in found.items() if run is not None}


def measured(runs: dict[str, Run], rounds: int, gradient: bool) -> dict[str, float]:
    """The median CPU time of each engine in ms."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(rounds + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.process_time()
            runs[name](gradient)
            if number:
                times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def table(batch: int, steps: int, divergence: bool, rounds: int) -> list[str]:
    """The rows of a Markdown table."""
    runs = engines(batch, steps, divergence)
    forward, whole = (measured(runs, rounds, gradient) for gradient in (False, True))
    lines = ["| | forward ms | to the plain loop | with gradient ms | to the plain loop |", "|---|---:|---:|---:|---:|"]
    for name in runs:
        cells = []
        for found in (forward, whole):
            cells += [f"{found[name]:.1f}", f"{found[name] / found['plain loop']:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 256, 1024])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--divergence", action="store_true")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines: list[str] = []
    for batch in options.batch:
        title = f"{batch} paths, {options.steps} steps{', with divergence' if options.divergence else ''}"
        lines += [f"**{title}**", "", *table(batch, options.steps, options.divergence, options.rounds), ""]
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
