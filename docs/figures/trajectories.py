"""Draws docs/spiral_stages.png, docs/forecasts.png and docs/shooting.png, of pictures that runs have drawn themselves.

    odeflow fit -c spiral --model.extrapolate 500
    for name in pendulum_net lotka_volterra long_time; do odeflow fit -c trajectory/$name; done
    for name in linear bullet; do odeflow fit -c shooting/$name; done
    python docs/figures/trajectories.py

Of each recipe the newest run is taken; what a test draws is drawn here.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.image
import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import odeflow as of
from odeflow.plugin.registry import build
from odeflow.training import checkpoint
from odeflow.training.callbacks.figures import STYLE
from odeflow_tasks import Trajectory
from runs import newest

DPI = 150


@rc_context(STYLE)
def main(words: Sequence[str] | None = None) -> None:
    """Reads the runs and writes the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs, by recipe")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the pictures")
    options = parser.parse_args(words)

    def of_training(recipe: str, *names: str) -> list[np.ndarray]:
        return [read(newest(options.runs / recipe) / f"figures/{name}.png") for name in names]

    def of_test(recipe: str, name: str) -> np.ndarray:
        return drawn(tested(newest(options.runs / recipe) / "checkpoints/best.ckpt")[name])

    stages = of_training("spiral", *(f"phase_portrait_{stage}" for stage in ("1_start", "2_midway", "3_end")))
    forecasts = [of_test(f"trajectory/{name}", "forecast") for name in ("pendulum_net", "lotka_volterra")]
    pictures = {
        "spiral_stages": [*stages, of_test("spiral", "extrapolation")],
        "forecasts": [*forecasts, of_test("trajectory/long_time", "extrapolation")],
        "shooting": [*of_training("shooting/linear", "paths_3_end"), *of_training("shooting/bullet", "paths_3_end")],
    }
    for name, images in pictures.items():
        matplotlib.image.imsave(options.output / f"{name}.png", stacked(images))


def tested(ckpt_path: Path) -> dict[str, Figure]:
    """What a test of a checkpoint draws."""
    task, data = of.load(ckpt_path).eval(), build(checkpoint.specs(ckpt_path)["data"])
    assert isinstance(task, Trajectory)
    assert isinstance(data, of.DataModule)
    data.prepare_data()
    data.setup("test")
    (task.tested,) = data.test_dataloader()
    return task.test_figures()


def drawn(figure: Figure) -> np.ndarray:
    """(H, W, 3), bytes."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def read(file: Path) -> np.ndarray:
    """(H, W, 3), bytes."""
    return (255 * matplotlib.image.imread(file)[..., :3]).round().astype(np.uint8)


def stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """The images one below another, the narrow ones in the middle of white."""
    width = max(image.shape[1] for image in images)
    rows: list[np.ndarray] = []
    for image in images:
        left = (width - image.shape[1]) // 2
        sides = ((0, 0), (left, width - image.shape[1] - left), (0, 0))
        rows.append(np.pad(image, sides, constant_values=255))
    return np.concatenate(rows)


if __name__ == "__main__":
    main()
