"""Draws docs/planar_vs_cnf.png, Figure 4 of Chen et al. (2018), from runs of density/planar_vs_cnf.

    python docs/figures/planar_vs_cnf.py --seeds 0 1 2

trains both flows at each size on each target, which takes half an hour of one core for each seed; finished runs are
kept. The divergences, estimated by 50,000 samples and for continuous flows by a tight solver, are printed and written
to a CSV. A run fails if a smaller flow with the same seed is better, since the larger one can represent it; it is drawn
as a cross. Densities are those of the first seed.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import odeflow as of
from odeflow.cli.main import main as odeflow
from odeflow.config.record import RunRecord
from odeflow_data import StandardNormal
from odeflow_solvers import Dopri5
from odeflow_tasks import Variational

RECIPE = "density/planar_vs_cnf"
TARGETS, SIZES = ("U1", "U2", "U3"), (1, 2, 8, 32)
FLOWS = {
    "planar": ["--model.dynamics=null", "--model.planar={size}", "--optimizer=RMSprop", "--optimizer.lr=3e-3"],
    "cnf": ["--model.dynamics.units={size}", "--model.solver.compile=true"],
}
EPOCHS, STEPS = {"planar": 40, "cnf": 12}, 250
"""Epochs, and steps in one of them. The planar flow takes more, as in the paper; half of them are annealed."""
TITLES = {"planar": "planar flow, depth K", "cnf": "CNF, width M"}
COLOURS = {"planar": "tab:orange", "cnf": "tab:blue"}
REACH, CELLS = 5.0, 150


@dataclass(frozen=True)
class Fit:
    """A flow that was fitted.

    Attributes:
        target: Name of the target.
        flow: "planar" or "cnf".
        size: K or M.
        seed: Of the training.
        parameters: Their number.
        steps: Of the training.
        kl: KL(q‖p), in nats.
        std: Standard deviation of its estimate.
    """

    target: str
    flow: str
    size: int
    seed: int
    parameters: int
    steps: int
    kl: float
    std: float

    def failed(self, fits: Sequence["Fit"]) -> bool:
        """Whether a smaller flow is better by more than the noise of both estimates."""
        smaller = (each for each in fits if _alike(self, each) and each.size < self.size)
        return any(each.kl + 3 * each.std < self.kl - 3 * self.std for each in smaller)


def _alike(one: Fit, other: Fit) -> bool:
    return (one.target, one.flow, one.seed) == (other.target, other.flow, other.seed)


def main(words: Sequence[str] | None = None) -> None:
    """Trains what is not there, measures, and draws."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/planar_vs_cnf"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=Path("docs/planar_vs_cnf.png"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, help="at most, for a quick look")
    options = parser.parse_args(words)
    fits: list[Fit] = []
    tasks: dict[tuple[str, str, int], Variational] = {}
    for seed, target, size, (flow, epochs) in product(options.seeds, TARGETS, SIZES, EPOCHS.items()):
        began = time.process_time()
        run = trained(options.runs, target, flow, size, seed, min(epochs, options.epochs or epochs))
        task, fit = measured(run, target, flow, size, seed)
        tasks.setdefault((target, flow, size), task)
        fits.append(fit)
        mark = " ✗" if fit.failed(fits) else ""
        took = time.process_time() - began
        print(f"{target} {flow} {size}, seed {seed}: {fit.kl:.4f} ± {fit.std:.4f}{mark}, {took:.0f} s")  # noqa: T201
    with options.output.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(fits[0])))
        writer.writeheader()
        writer.writerows(asdict(fit) for fit in fits)
    drawn(fits, tasks).savefig(options.output, dpi=150)


def trained(runs: Path, target: str, flow: str, size: int, seed: int, epochs: int) -> Path:
    """The folder of the run, which is trained if it has not been to the end."""
    run = runs / f"{target}_{flow}_{size}_{seed}"
    record = RunRecord.read(run)
    if record is None or record.status != "finished":
        words = [f"--model.target={target}", *(word.format(size=size) for word in FLOWS[flow])]
        words += [f"--model.anneal={epochs * STEPS // 2}", f"--seed_everything={seed}"]
        words += [f"--trainer.max_epochs={epochs}", "--trainer.enable_progress_bar=false"]
        words += [
            "--trainer.logger=CSVLogger",
            f"--trainer.logger.save_dir={runs}",
            f"--trainer.logger.name={run.name}",
        ]
        odeflow(["fit", "-c", RECIPE, *words, "--trainer.logger.version=", "--trainer.enable_model_summary=false"])
    return run


def measured(run: Path, target: str, flow: str, size: int, seed: int) -> tuple[Variational, Fit]:
    """The best epoch's task and its divergence."""
    task = of.load(run / "checkpoints/best.ckpt").eval()
    assert isinstance(task, Variational)
    for module in task.modules():
        if isinstance(module, of.Flow):
            module.solver = Dopri5(rtol=1e-6, atol=1e-6)
    noise = StandardNormal(dim=2)
    noise.setup("test")
    with torch.no_grad():
        x, log_q = task(noise.test)
        differences = log_q - task.target.log_density(x)
    parameters = sum(param.numel() for param in task.parameters())
    steps = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    std = differences.std().item() / len(noise.test) ** 0.5
    return task, Fit(target, flow, size, seed, parameters, steps, differences.mean().item(), std)


def drawn(fits: Sequence[Fit], tasks: dict[tuple[str, str, int], Variational]) -> Figure:
    """A row for each target: its density, those of the flows, and the divergences."""
    figure = Figure(figsize=(21, 7), layout="constrained")
    columns = 1 + len(EPOCHS) * len(SIZES)
    panels: Any = figure.subplots(len(TARGETS), columns + 1, squeeze=False, width_ratios=[1] * columns + [1.7])
    for row, target in zip(panels, TARGETS, strict=True):
        show(row[0], tasks[target, "cnf", SIZES[0]].target.log_density(grid()))
        row[0].set(ylabel=target, title="target" if target == TARGETS[0] else "")
        shown = [(flow, size) for flow in EPOCHS for size in SIZES]
        for axes, (flow, size) in zip(row[1:-1], shown, strict=True):
            with torch.no_grad():
                show(axes, tasks[target, flow, size].log_prob(grid()))
            if target == TARGETS[0]:
                axes.set(title=f"planar, K = {size}" if flow == "planar" else f"CNF, M = {size}")
        for flow in EPOCHS:
            some = [fit for fit in fits if (fit.target, fit.flow) == (target, flow)]
            for marker, failed in (("o", False), ("X", True)):
                points = [(fit.size, fit.kl) for fit in some if fit.failed(fits) == failed]
                if points:
                    row[-1].plot(*zip(*points, strict=True), marker, color=COLOURS[flow])
            means = [statistics.geometric_mean(fit.kl for fit in some if fit.size == size) for size in SIZES]
            row[-1].plot(SIZES, means, color=COLOURS[flow], label=TITLES[flow])
        row[-1].set(xscale="log", yscale="log", ylabel="KL(q‖p) in nats", xticks=SIZES, xticklabels=SIZES)
        row[-1].minorticks_off()
        row[-1].grid(alpha=0.3)
    panels[0, -1].legend(fontsize="small")
    panels[-1, -1].set(xlabel="K, M")
    return figure


def grid() -> torch.Tensor:
    """(CELLS², 2), row by row from below."""
    at = torch.linspace(-REACH, REACH, CELLS)
    return torch.cartesian_prod(at, at).flip(1)


def show(axes: Any, log_p: torch.Tensor) -> None:
    """Draws a density without ticks."""
    image = log_p.exp().view(CELLS, CELLS)
    axes.imshow(image, origin="lower", extent=(-REACH, REACH, -REACH, REACH), cmap="magma", vmin=0)
    axes.set(xticks=[], yticks=[])


if __name__ == "__main__":
    main()
