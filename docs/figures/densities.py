"""Draws docs/densities.png from runs of the four recipes of the plane.

    for name in two_moons two_circles eight_gaussians checkerboard; do odeflow fit -c density/$name; done
    python docs/figures/densities.py

Of each recipe the newest run is taken. The test's negative log-likelihood is printed beside the entropy, the divergence
from the true density, and what the density integrates to over the square that is drawn.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import odeflow as of
from odeflow.plugin.registry import build
from odeflow.training import checkpoint
from odeflow_data import ToyDensity
from odeflow_tasks import Density
from runs import newest

NAMES = ("two_moons", "two_circles", "eight_gaussians", "checkerboard")
REACH, CELLS, POINTS = 5.0, 200, 5000


def main(words: Sequence[str] | None = None) -> None:
    """Reads the runs and writes the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/density"), help="folder of the runs, by recipe")
    parser.add_argument("--output", type=Path, default=Path("docs/densities.png"))
    options = parser.parse_args(words)
    figure = Figure(figsize=(3.1 * len(NAMES), 9.4), layout="constrained")
    columns: Any = figure.subplots(3, len(NAMES)).T
    for panels, name in zip(columns, NAMES, strict=True):
        draw(panels, name, newest(options.runs / name) / "checkpoints/best.ckpt")
    for axes, label in zip(columns[0], ("data", "samples", "density"), strict=True):
        axes.set(ylabel=label)
    figure.savefig(options.output, dpi=150)


@torch.no_grad()
def draw(panels: Any, name: str, ckpt_path: Path) -> None:
    """Data, samples and density of a run, from above."""
    task, data = of.load(ckpt_path).eval(), build(checkpoint.specs(ckpt_path)["data"])
    assert isinstance(task, Density)
    assert isinstance(data, ToyDensity)
    data.setup("test")
    log_prob, entropy = task.log_prob(data.test), data.entropy()
    nll, kl = -log_prob.mean().item(), (data.log_density(data.test) - log_prob).mean().item()
    torch.manual_seed(0)
    for axes, x in zip(panels, (data.test[:POINTS], task.sample(POINTS)["x"]), strict=False):
        axes.scatter(*x.T.numpy(), s=1.5, linewidths=0, color="tab:blue")
    at = torch.linspace(-REACH, REACH, CELLS)
    p = task.log_prob(torch.cartesian_prod(at, at).flip(1)).exp().view(CELLS, CELLS)
    integral = p.sum().item() * (2 * REACH / (CELLS - 1)) ** 2
    print(f"{name}: {nll:.3f} nats in the test, entropy {entropy:.3f}, KL {kl:.4f}, integral {integral:.5f}")  # noqa: T201
    panels[2].imshow(p.numpy(), origin="lower", extent=(-REACH, REACH, -REACH, REACH), cmap="magma", vmin=0)
    panels[0].set(title=f"{name}\n{nll:.3f} nats, entropy {entropy:.3f}")
    for axes in panels:
        axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=[], yticks=[])


if __name__ == "__main__":
    main()
