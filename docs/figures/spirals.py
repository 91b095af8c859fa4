"""Draws docs/spirals.png from a run of latent/spirals: reconstructions continued both ways, beside the truth.

    odeflow fit -c latent/spirals
    python docs/figures/spirals.py

The spirals that are drawn belong to the test part.
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
from odeflow_data import BidirectionalSpirals
from odeflow_tasks import LatentODE
from runs import newest

SPIRALS, LINES = 4, 12
MARGIN = 0.5
"""How far curves go on before and after the observed stretch, as part of it."""
INSIDE, BEFORE, AFTER = "tab:blue", "tab:orange", "tab:red"


def main(words: Sequence[str] | None = None) -> None:
    """Reads the run and writes the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, help="folder of the run; by default the newest of latent/spirals")
    parser.add_argument("--output", type=Path, default=Path("docs/spirals.png"))
    options = parser.parse_args(words)
    ckpt_path = (options.run or newest(Path("runs/latent/spirals"))) / "checkpoints/best.ckpt"
    task, data = of.load(ckpt_path).eval(), build(checkpoint.specs(ckpt_path)["data"])
    assert isinstance(task, LatentODE)
    assert isinstance(data, BidirectionalSpirals)
    data.setup("test")
    figure = Figure(figsize=(3.6 * SPIRALS, 4.1), layout="constrained")
    panels: Any = figure.subplots(1, SPIRALS)
    draw(panels, task, data)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize="small")
    figure.savefig(options.output, dpi=100)


@torch.no_grad()
def draw(panels: Any, task: LatentODE, data: BidirectionalSpirals) -> None:
    """The first spirals of the test, of both directions."""
    counter_clockwise = data.test.label == 1
    rows = torch.cat([mask.nonzero()[: SPIRALS // 2, 0] for mask in (counter_clockwise, ~counter_clockwise)])
    batch = data.test.take(rows)
    stretch = task.flow.options.t1 - task.flow.options.t0
    t = torch.linspace(task.flow.options.t0 - MARGIN * stretch, task.flow.options.t1 + MARGIN * stretch, 401)
    truth, mean = data.truth(rows, t), task.reconstruct(batch, t)
    torch.manual_seed(0)
    samples = task.reconstruct(batch, t, LINES)
    parts = (
        ("posterior mean, before the observed stretch", t <= task.flow.options.t0, BEFORE),
        ("on it", (t >= task.flow.options.t0) & (t <= task.flow.options.t1), INSIDE),
        ("after it", t >= task.flow.options.t1, AFTER),
    )
    for row, axes in enumerate(panels):
        axes.plot(*truth[row].T, color="0.6", linestyle="--", linewidth=1.2, label="truth")
        for label, part, colour in parts:
            for sample in samples[:, row]:
                axes.plot(*sample[part].T, color=colour, linewidth=0.5, alpha=0.35)
            axes.plot(*mean[row, part].T, color=colour, linewidth=1.8, label=label)
        seen = batch.y[row][batch.seen[row].all(-1)]
        axes.plot(*seen.T, "o", color="black", markersize=2.5, label="observed")
        axes.set(aspect="equal", xlabel="$y_1$", adjustable="datalim")


if __name__ == "__main__":
    main()
