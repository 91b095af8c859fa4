"""`odeflow env`: what a bug report should say of the machine and the versions."""

import os
import platform
from importlib.metadata import distributions, version

from odeflow.errors import OdeflowError
from odeflow.plugin.registry import VARIABLE, packages

PACKAGES = ("torch", "lightning", "torchmetrics", "torchdiffeq", "jsonargparse", "polars", "scikit-learn", "wandb")
"""Packages whose versions matter, beside those that bring plugins."""


def env(words: list[str]) -> int:
    """Prints the environment.

    Args:
        words: None.

    Raises:
        OdeflowError: There are words after the command.
    """
    import torch

    if words:
        raise OdeflowError(f"odeflow env takes no options; got {words[0]!r}")
    cuda = torch.cuda
    devices = [cuda.get_device_name(number) for number in range(cuda.device_count())]
    installed = {each.name for each in distributions()}
    plugins = sorted({entry.dist.name for entry in packages() if entry.dist is not None} - {"odeflow"})
    names = [name for name in ("odeflow", *PACKAGES, *plugins) if name in installed]
    facts = {
        "python": f"{platform.python_version()}, {platform.python_implementation()}",
        "system": f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores",
        "devices": ", ".join(devices) or "cpu",
        "threads": str(torch.get_num_threads()),
        **{name: version(name) for name in names},
        VARIABLE: os.environ.get(VARIABLE, ""),
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        if value:
            print(f"{name:{width}}  {value}")  # noqa: T201
    return 0
