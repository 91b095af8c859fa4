"""Draws `docs/power.png`: the learning curve of `density/power`, from its last run below `runs/`."""

from pathlib import Path

from matplotlib.figure import Figure

from runs import column, newest

GAUSSIAN, FFJORD = 7.742, -0.46
BATCHES = 415  # of an epoch


def main() -> None:
    """The command."""
    run = newest(Path("runs/density/power"))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, label, style in (("train/loss_epoch", "training", "."), ("val/loss", "validation", "o-")):
        losses = column(run, name)
        axes.plot(range(1, len(losses) + 1), losses, style, label=label)
    axes.axhline(FFJORD, color="gray", linestyle="--", label="FFJORD, as published (test)")
    axes.set(xlabel=f"epochs of {BATCHES} batches of 1000 rows", ylabel="−log p, nats", ylim=(-0.8, 0.2))
    axes.set_title(f"POWER; a Gaussian has {GAUSSIAN:.2f}")
    axes.legend()
    figure.savefig(Path(__file__).parents[1] / "power.png", dpi=150)


if __name__ == "__main__":
    main()
