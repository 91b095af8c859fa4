"""The entry point: dispatches each command to its module, and turns errors into a message and an exit status."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from odeflow import __version__
from odeflow.cli.startup import importing
from odeflow.errors import OdeflowError

HELP = """\
usage: odeflow COMMAND …

  fit       train:     odeflow fit -c mnist/ode_net --model.solver RK4 --model.solver.num_steps 4
  validate  evaluate on the validation part
  test      evaluate on the test part:  odeflow test --ckpt_path best.ckpt --model.solver.rtol 1e-8
  predict   write predictions:  odeflow predict --ckpt_path best.ckpt --data.path new.csv --output out.csv
  grid      train every combination of options:  odeflow grid spiral --seed_everything 0,1,2
  plot      draw what a checkpoint's flow does:  odeflow plot KIND --ckpt_path best.ckpt, the KIND being
            statistics, activations, precision or animation
  sample    draw from a learned density:  odeflow sample -c density/two_moons --weights --count 1000
  export    write a checkpoint's weights alone:  odeflow export --ckpt_path best.ckpt --output net.safetensors
  runs      list [RECIPE] | compare RUN RUN … | best RECIPE
  report    one HTML page of runs, with curves and pictures:  odeflow report runs/spiral/version_0
  recipes   list | show NAME | copy NAME FILE
  plugins   list [KIND] | show NAME | new KIND NAME [--package]
  check     build recipes without running them:  odeflow check spiral mine.yaml
  schema    the JSON schema of recipes, for editors:  odeflow schema --output odeflow.schema.json
  completion  how a shell completes all this:  eval "$(odeflow completion bash)"
  env       versions and devices, for a bug report

  -c RECIPE names a recipe or its file; several are merged: odeflow fit -c mnist/ode_net -c overlays/wandb
  --weights, with a recipe, begins with its trained weights: odeflow test -c mnist/ode_net --weights
  odeflow COMMAND --help tells more; odeflow plugins show Classification lists a plugin's options.
  --plugins FILE|FOLDER|MODULE, with any command, adds plugins that are not installed.
"""
RUNS = ("fit", "validate", "test", "predict")
"""The commands of `odeflow.cli.run`."""
OTHERS = (
    "grid",
    "plot",
    "sample",
    "export",
    "runs",
    "report",
    "recipes",
    "plugins",
    "check",
    "schema",
    "completion",
    "env",
)
"""The other commands. Each is the function of its name in the module of its name, which is imported when it is used."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The words after `odeflow`; by default those of this process.

    Returns:
        The exit status: 0, or 2 after an OdeflowError.
    """
    if "_ARGCOMPLETE" in os.environ:
        from odeflow.cli.completion import complete

        complete((*RUNS, *OTHERS))
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except OdeflowError as problem:
        print(f"error: {problem}", file=sys.stderr)  # noqa: T201
        return 2


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")  # noqa: T201
        return 0
    if words[0] == "--version":
        print(f"odeflow {__version__}")  # noqa: T201
        return 0
    command, rest = words[0], words[1:]
    if command in RUNS:
        if {"-h", "--help"} & set(rest):
            from odeflow.cli.usage import usage

            print(usage(command), end="")  # noqa: T201
            return 0
        with importing():
            from odeflow.cli.run import run

        run(command, rest)
        return 0
    if command in OTHERS:
        with importing():
            module = import_module(f"odeflow.cli.{command}")
        return getattr(module, command)(rest)
    from odeflow.plugin.registry import unknown

    raise OdeflowError(unknown("command", command, (*RUNS, *OTHERS)))
