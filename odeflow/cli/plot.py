"""`odeflow plot KIND`: plots the cost and the behaviour of a checkpoint's flow."""

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from matplotlib import animation, rc_context
from matplotlib.figure import Figure
from rich.console import Console

from odeflow.analysis.replay import flows
from odeflow.cli import picture
from odeflow.cli.command import Command
from odeflow.cli.options import Options, count, run_of
from odeflow.cli.prepare import prepared
from odeflow.config.request import Request
from odeflow.errors import CheckpointError, DataError, OdeflowError, RecipeError, SettingError
from odeflow.plugin import registry
from odeflow.training import checkpoint
from odeflow.training.callbacks.figures import STYLE
from odeflow.training.files import replacing

KINDS = {
    "statistics": "error, time and backward evaluations against forward ones, and evaluations over training",
    "activations": "the state over time, and its principal components",
    "precision": "the test's result against evaluations, under several solvers and settings",
    "animation": "a density of the plane on its way from the base to the data",
}
MOVING = {".gif": "pillow", ".mp4": "ffmpeg"}
"""File endings of animations and their Matplotlib writers."""
FRAMES_A_SECOND = 20
PASSED = ("model", "data", "trainer", "seed_everything")
"""Options that override the checkpoint's configuration rather than configure the figure."""
TRAINER = {
    "devices": 1,
    "inference_mode": False,  # for backward passes
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@rc_context(STYLE)
def plot(words: list[str]) -> int:
    """Runs the command.

    Raises:
        OdeflowError: The request is invalid, or the requested quantity cannot be measured.
    """
    kind = words[0] if words else ""
    if kind in ("-h", "--help"):
        kinds = "\n".join(f"  {name:12} {summary}" for name, summary in KINDS.items())
        print(f"usage: odeflow plot KIND --ckpt_path FILE …\n\n{kinds}\n\nodeflow plot KIND --help shows its options.")  # noqa: T201
        return 0
    if not kind or kind.startswith("-"):
        raise OdeflowError(f"the kind of plot comes first: odeflow plot {'|'.join(KINDS)} --ckpt_path FILE")
    if kind not in KINDS:
        raise OdeflowError(registry.unknown("kind of plot", kind, KINDS))
    request = Request.of(words[1:])
    options = _options(kind, request)
    registry.discover(request.plugins)
    subject = _subject(request, options.batches if kind == "precision" else 1)
    run = None if request.ckpt_path is None else run_of(Path(request.ckpt_path))
    output = _output(kind, options.output, run)
    try:
        if kind == "statistics":
            drawn = picture.statistics(subject, run, options.solver, options.tolerances, options.samples)
        elif kind == "activations":
            drawn = picture.activations(subject, options.channels, options.samples)
        elif kind == "animation":
            drawn = picture.animation(subject, options.frames, options.samples)
        else:
            drawn = picture.precision(subject, options.solvers, options.num_steps, options.tolerances)
    except MisconfigurationException as problem:
        raise DataError(f"{type(subject.datamodule).__name__} cannot be tested: {problem}") from problem
    _write(output, drawn)
    return 0


def _write(output: Path, drawn: picture.Picture) -> None:
    table = output.with_suffix(".csv")
    with replacing(output) as part:
        if drawn.frames:
            _animate(part, drawn)
        else:
            drawn.figure.savefig(part)
    with replacing(table) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(drawn.rows[0]))
        writer.writeheader()
        writer.writerows(drawn.rows)
    Console(soft_wrap=True).print(f"drawn to {output}, the numbers are in {table}", highlight=False, markup=False)


def _animate(output: Path, drawn: picture.Picture) -> None:
    """Writes the frames. The last one is held for a second."""
    writer = animation.writers[MOVING[output.suffix]](fps=FRAMES_A_SECOND)
    with writer.saving(drawn.figure, str(output), dpi=100):
        for show in [*drawn.frames, *FRAMES_A_SECOND * [drawn.frames[-1]]]:
            show()
            writer.grab_frame()


def _output(kind: str, given: str | None, run: Path | None) -> Path:
    """The output file: by default in `figures/` of the run's folder, or of the working directory if there is no run."""
    moving = kind == "animation"
    output = (run or Path()) / "figures" / f"{kind}.{'gif' if moving else 'png'}" if given is None else Path(given)
    known = [*MOVING] if moving else sorted(f".{ending}" for ending in Figure().canvas.get_supported_filetypes())
    if output.suffix not in known:
        raise SettingError(
            f"--output must end in {known[0] if moving else '.png'} or another of {', '.join(known)}; got {given}"
        )
    if moving and not animation.writers.is_available(MOVING[output.suffix]):
        raise SettingError(
            f"a {output.suffix} is written by {MOVING[output.suffix]}, which is not installed; write a .gif"
        )
    return output


# Options


def _listed(item: Callable[[str], Any], what: str, fits: Callable[[Any], bool]) -> Callable[[str], list[Any]]:
    """A parser of comma-separated lists whose items all satisfy `fits`."""

    def read(text: str) -> list[Any]:
        try:
            values = [item(word) for word in text.split(",")]
        except ValueError:
            values = []
        if not values or not all(fits(value) for value in values):
            raise argparse.ArgumentTypeError(f"expected {what} separated by commas, got {text!r}")
        return values

    return read


_tolerances = _listed(float, "numbers between 0 and 1", lambda value: 0 < value < 1)
OPTIONS: dict[str, dict[str, tuple[Callable[[str], Any], str | None, str]]] = {
    "statistics": {
        "solver": (str, "Dopri5", "an adaptive solver"),
        "tolerances": (_tolerances, "1e-1,1e-2,1e-3,1e-4,1e-5,1e-6", "its rtol and atol"),
        "samples": (count, "100", "number of samples, of the first test batch"),
    },
    "activations": {
        "channels": (_listed(int, "numbers from 0", lambda value: value >= 0), None, "the four that move most"),
        "samples": (count, "30", "number of samples, of the first test batch"),
    },
    "precision": {
        "solvers": (_listed(str, "names of solvers", bool), "Euler,Midpoint,RK4,Dopri5", "names of solvers"),
        "num_steps": (
            _listed(int, "positive numbers", lambda value: value > 0),
            "1,2,4,8,16",
            "of the fixed-step ones",
        ),
        "tolerances": (_tolerances, "1e-1,1e-2,1e-3,1e-4,1e-5,1e-6", "rtol and atol of the adaptive ones"),
        "batches": (count, None, "number of test batches; by default all"),
    },
    "animation": {
        "frames": (count, "60", f"number of moments, {FRAMES_A_SECOND} a second"),
        "samples": (count, "1000", "number of samples that are carried along"),
    },
}


def _options(kind: str, request: Request) -> argparse.Namespace:
    """The options of the figure. Options that override the checkpoint's configuration remain in the request."""
    passed = [option for option in request.options if option[0].partition(".")[0] in PASSED]
    epilog = "Options such as --data.root PATH and --trainer.accelerator cpu are understood as by odeflow test."
    parser = Options(f"plot {kind}", f"Draws {KINDS[kind]}.", epilog)
    parser.add_argument("--ckpt_path", metavar="FILE", help="the checkpoint; or else -c RECIPE --weights")
    parser.add_argument("--output", metavar="FILE", help="the picture; by default in figures/ beside the checkpoints")
    for name, (read, default, help_) in OPTIONS[kind].items():
        text = help_ if default is None else f"{help_}; by default {default}"
        parser.add_argument(f"--{name}", type=read, default=default, metavar=name.upper(), help=text)
    for name in dict.fromkeys(name for name, _ in passed):
        parser.add_argument(f"--{name}", nargs="?", help=argparse.SUPPRESS)
    options = parser.read(request.words, ("ckpt_path", "output", *OPTIONS[kind], *PASSED))
    request.options = passed
    request.words = [f"--{name}" if value is None else f"--{name}={value}" for name, value in passed]
    return options


def _subject(request: Request, batches: int | None) -> Command:
    """The trained task, its data, and a trainer for testing.

    Raises:
        OdeflowError: There are no weights, no data or no flow.
    """
    config = prepared("plot", request) if request.ckpt_path or request.configs else {}
    pretrained = request.pretrained()
    if request.ckpt_path is None and pretrained is None:
        raise CheckpointError("odeflow plot needs a trained model: --ckpt_path FILE, or -c NAME --weights")
    if "data" not in config and not any(name.partition(".")[0] == "data" for name, _ in request.options):
        raise RecipeError(
            f"{request.ckpt_path} does not name its data: give a recipe by -c NAME, or data by --data NAME"
        )
    config = {key: config[key] for key in PASSED if key in config}
    config["trainer"] = TRAINER
    command = Command(["--config", json.dumps(config), *request.words], run=False, pretrained=pretrained)
    if command.trainer.world_size > 1:
        raise SettingError(f"odeflow plot measures in one process; the trainer has {command.trainer.world_size}")
    if batches is not None:  # the parser might read a number of batches as a fraction
        command.trainer.limit_test_batches = batches
    if request.ckpt_path is not None:
        checkpoint.restore(command.model, request.ckpt_path)
    flows(command.model)
    return command
