"""Draws docs/anode.png from runs of the four recipes of anode/.

    for name in crossing crossing_plain spheres spheres_plain; do odeflow fit -c anode/$name; done
    python docs/figures/anode.py

Of each recipe the newest run is taken.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import odeflow as of
from runs import column, newest

RUNS = {"plain": ("crossing_plain", "spheres_plain"), "augmented": ("crossing", "spheres")}
COLOURS = {"plain": "tab:orange", "augmented": "tab:blue"}


def main(words: Sequence[str] | None = None) -> None:
    """Reads the runs and writes the picture. A dot is the best epoch, whose weights are tested."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/anode"), help="folder of the runs, by recipe")
    parser.add_argument("--output", type=Path, default=Path("docs/anode.png"))
    options = parser.parse_args(words)
    figure = Figure(figsize=(15, 3.8), layout="constrained")
    *lines, nfe, error = figure.subplots(1, 4)
    for axes, (kind, (crossing, spheres)) in zip(lines, RUNS.items(), strict=True):
        draw_crossing(axes, newest(options.runs / crossing), kind)
        run = newest(options.runs / spheres)
        nfe.plot(column(run, "nfe/forward_epoch"), color=COLOURS[kind], label=kind)
        losses = column(run, "val/loss")
        error.plot(losses, color=COLOURS[kind], label=kind)
        error.plot(losses.index(min(losses)), min(losses), "o", color=COLOURS[kind])
    nfe.set(title="nested spheres: evaluations", xlabel="epoch", ylabel="NFE of a forward pass", ylim=(0, None))
    error.set(title="nested spheres: error", xlabel="epoch", ylabel="MSE in validation", yscale="log")
    for axes in (nfe, error):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(options.output, dpi=130)


def draw_crossing(axes: Any, run: Path, kind: str) -> None:
    """The trajectories of −1 and 1 over time, and in grey those of the points around them."""
    task = of.load(run / "checkpoints/best.ckpt")
    (flow,) = (module for module in task.modules() if isinstance(module, of.Flow))
    t = torch.linspace(flow.options.t0, flow.options.t1, 101)
    with torch.no_grad():
        around = flow.trajectory(torch.linspace(-1.5, 1.5, 25)[:, None], t).y[:, :, 0]
        (low, high) = flow.trajectory(torch.tensor([[-1.0], [1.0]]), t).y[:, :, 0].T
    axes.plot(t, around, color="0.8", linewidth=0.8)
    for path, target, colour in ((low, 1, "tab:red"), (high, -1, "tab:purple")):
        axes.plot(t, path, color=colour, linewidth=2)
        axes.plot([t[-1]], [target], "X", color=colour, markersize=9, markeredgecolor="black", clip_on=False, zorder=3)
    mse = min(column(run, "val/loss"))
    title = f"crossing, {kind}: MSE {mse:.1e}" if mse < 1e-3 else f"crossing, {kind}: MSE {mse:.4f}"
    axes.set(title=title, xlabel="$t$", ylabel="$y_1$", xlim=(flow.options.t0, flow.options.t1), ylim=(-1.6, 1.6))


if __name__ == "__main__":
    main()
