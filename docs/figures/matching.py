"""Draws docs/matching.png: the same weights under several solvers, by distance and by likelihood.

python benchmarks/matching.py --coupling Independent --save runs/matching
python benchmarks/matching.py --coupling MinibatchOT --save runs/matching
for name in Independent MinibatchOT; do
    python benchmarks/matching.py --solvers runs/matching/${name}_none_0.ckpt > runs/matching/$name.txt
done
python docs/figures/matching.py --runs runs/matching
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

SOLVERS = ("Euler", "Midpoint", "Heun", "RK4", "Bosh3", "Dopri5", "Tsit5", "Dopri8")
MARKERS = dict(zip(SOLVERS, "v<>sPoDX", strict=True))
PANELS = (("Independent", "independent coupling"), ("MinibatchOT", "optimal transport in batches"))
PER_SAMPLE = "Dopri5 per sample"


def main(words: Sequence[str] | None = None) -> None:
    """Reads the tables of both couplings and writes the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/matching"), help="folder of the tables")
    parser.add_argument("--output", type=Path, default=Path("docs/matching.png"))
    options = parser.parse_args(words)
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    panels: Any = figure.subplots(2, 2, sharex=True, sharey="row")
    for (distances, likelihoods), (name, title) in zip(panels.T, PANELS, strict=True):
        draw(distances, likelihoods, options.runs / f"{name}.txt")
        distances.set(title=title, yscale="log", xscale="log")
        likelihoods.set(xlabel="evaluations of the field for a sample")
    panels[0, 0].set(ylabel="$W_2^2$ between samples and data")
    panels[1, 0].set(ylabel="mean of $-\\log p$ at the data, nats", ylim=(0, 5))
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(options.output, dpi=130)


def draw(distances: Any, likelihoods: Any, table: Path) -> None:
    """Distances and likelihoods of each solver against its evaluations; adaptive ones have lines without gaps."""
    rows: dict[str, list[list[float]]] = defaultdict(list)
    for line in table.read_text().splitlines():
        name, _, *numbers = line.split(", ")
        rows[name].append([float(number) for number in numbers])
    for index, (name, values) in enumerate(rows.items()):
        there, distance, back, nll = zip(*values, strict=True)
        fixed = name in SOLVERS[:4]
        style: dict[str, Any] = {
            "color": f"C{index}",
            "marker": "*" if name == PER_SAMPLE else MARKERS[name],
            "linestyle": "--" if fixed else "-",
            "markersize": 5,
            "linewidth": 1,
            "label": name,
        }
        distances.plot(there, distance, **style)
        likelihoods.plot(back, nll, **style)
    for axes in (distances, likelihoods):
        axes.grid(alpha=0.3)


if __name__ == "__main__":
    main()
