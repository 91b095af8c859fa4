"""`odeflow check`: builds recipes without running them."""

import json
import sys

from lightning.fabric.utilities.exceptions import MisconfigurationException

from odeflow.cli import explain
from odeflow.cli.command import Command
from odeflow.cli.prepare import prepared
from odeflow.cli.startup import importing
from odeflow.config.request import SECTIONS, Request
from odeflow.errors import OdeflowError
from odeflow.plugin import registry
from odeflow.training.callbacks import GROUPS

HELP = """\
usage: odeflow check RECIPE … [OPTION VALUE …]

  odeflow check spiral mine.yaml -c overlays/wandb --model.solver RK4 --model.solver.num_steps 4

builds model, data, optimizer and trainer of each recipe, with all options of odeflow fit, and trains nothing. Recipes
after -c are overlays of all. Each recipe that cannot be built is named with its error; the exit status is then 2.
"""
BUILT = (*(section for section in SECTIONS if section not in GROUPS), "seed_everything")  # groups are of a run


def check(words: list[str]) -> int:
    """Runs the command.

    Returns:
        The exit status: 0 if everything could be built, otherwise 2.

    Raises:
        OdeflowError: No recipe is given.
    """
    if not words or {"-h", "--help"} & set(words):
        print(HELP, end="")  # noqa: T201
        return 0
    request = Request.of(words)
    recipes = [word for word in request.words if not word.startswith("-")]
    if not recipes:
        raise OdeflowError("odeflow check needs a recipe: odeflow check spiral")
    with importing():
        registry.discover(request.plugins)
    rest = [word for word in request.words if word.startswith("-")]
    rest += [word for overlay in request.configs for word in ("-c", overlay)]
    failed = 0
    for recipe in recipes:
        try:
            print(f"{recipe}: {_built(['-c', recipe, *rest])}")  # noqa: T201
        except (OdeflowError, SystemExit) as problem:
            failed += 1
            reason = f"error: {problem}" if isinstance(problem, OdeflowError) else "see the error above"
            print(f"{recipe}: {reason}", file=sys.stderr)  # noqa: T201
    return 2 if failed else 0


def _built(words: list[str]) -> str:
    """What a recipe consists of.

    Raises:
        OdeflowError: It cannot be built.
    """
    request = Request.of(words)
    try:
        config = {key: part for key, part in prepared("fit", request).items() if key in BUILT}
        config["trainer"].setdefault("logger", False)
        command = Command(["--config", json.dumps(config), *request.words], run=False)
    except OdeflowError:
        raise
    except (MisconfigurationException, *registry.UNBUILDABLE) as problem:
        raise OdeflowError(explain.failed(problem) or registry.cause(problem)) from problem
    parameters = sum(each.numel() for each in command.model.parameters())
    return f"{type(command.model).__name__}, {parameters:,} parameters, on {type(command.datamodule).__name__}"
