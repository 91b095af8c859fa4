"""Draws `docs/power.png`: the learning curve of `density/power`, from its last run below `runs/`."""

import csv
from pathlib import Path

from matplotlib.figure import Figure

GAUSSIAN, FFJORD = 7.742, -0.46
BATCHES = 415  # of an epoch


def main() -> None:
    """The command."""
    run = max(Path("runs/density/power").glob("version_*"), key=lambda folder: int(folder.name.split("_")[1]))
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, label, style in (("train/loss_epoch", "training", "."), ("val/loss", "validation", "o-")):
        points = [(1 + int(row["epoch"]), float(row[name])) for row in rows if row.get(name)]
        axes.plot(*zip(*points, strict=True), style, label=label)
    axes.axhline(FFJORD, color="gray", linestyle="--", label="FFJORD, as published (test)")
    axes.set(xlabel=f"epochs of {BATCHES} batches of 1000 rows", ylabel="−log p, nats", ylim=(-0.8, 0.2))
    axes.set_title(f"POWER; a Gaussian has {GAUSSIAN:.2f}")
    axes.legend()
    figure.savefig(Path(__file__).parents[1] / "power.png", dpi=110)


if __name__ == "__main__":
    main()
