"""What the values of a configuration may name: plugins, and imported classes of torch's and Lightning's contracts."""

import sys
from collections.abc import Iterator
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment, Precision
from lightning.pytorch import Callback
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import LayerSync
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from odeflow.config import recipes
from odeflow.plugin import registry
from odeflow.training import schedule as schedule  # its schedules may be named

CONTRACTS: dict[str, tuple[type, ...]] = {
    "optimizer": (Optimizer,),
    "lr_scheduler": (LRScheduler,),
    "logger": (Logger,),
    "callback": (Callback,),
    "strategy": (Strategy,),
    "accelerator": (Accelerator,),
    "profiler": (Profiler,),
    "plugin of the trainer": (CheckpointIO, ClusterEnvironment, LayerSync, Precision),
}
"""The contracts of the classes that a configuration names without their being plugins."""
FIRST = ("optimizer", "lr_scheduler")
"""Contracts whose first argument is not an option."""
LOADER = get_loader("yaml")
"""How the parser reads YAML."""
ADVICE = "If you trust it, load its file or module by --plugins"


def foreign(what: str) -> dict[str, type]:
    """The imported public classes of a contract by name; of two of one name, that which is derived from the other.

    Args:
        what: A key of `CONTRACTS`.
    """
    return {cls.__name__: cls for cls in _foreign(what)}


def named(path: str, what: str) -> type | None:
    """The imported class of a contract that a path or a bare name means; nothing is imported to find it.

    Args:
        path: As "Adam", "torch.optim.Adam" or "torch.optim.adam.Adam".
        what: A key of `CONTRACTS`.
    """
    if "." not in path:
        return foreign(what).get(path)
    return next((cls for cls in _foreign(what) if path in _paths(cls)), None)


def restrict() -> None:
    """Lets the parser import and call what is imported already and may be named, and nothing else.

    Without this it imports the module of any class path, and calls what is found there, before the type is compared.
    YAML that it reads itself, as from a file that a value names, has the limits of recipes.
    """
    set_loader("yaml", _loaded, (yaml.YAMLError,))
    classes = [cls for kind in registry.kinds() for cls in registry.plugins(kind).values()]
    classes += [cls for what in CONTRACTS for cls in _foreign(what)]
    paths = {path for cls in classes for path in _paths(cls)} | registry.trusted()
    set_parsing_settings(
        instantiate_subclass_spec_in_any=False,
        import_path_denylist=["*"],
        import_path_allowlist=sorted(path for path in paths if all(part.isidentifier() for part in path.split("."))),
    )


def _loaded(text: str) -> Any:
    """A value from YAML, checked as a recipe before it is built."""
    recipes.parse(text)
    return LOADER(text)


def _foreign(what: str) -> Iterator[type]:
    for contract in CONTRACTS[what]:
        yield from (cls for cls in registry.subclasses(contract) if not cls.__name__.startswith("_"))


def _paths(cls: type) -> Iterator[str]:
    """The import paths of a class: its own, and those through the packages around it that export it."""
    yield f"{cls.__module__}.{cls.__qualname__}"
    parts = cls.__module__.split(".")
    for length in range(1, len(parts)):
        home = ".".join(parts[:length])
        if getattr(sys.modules.get(home), cls.__qualname__, None) is cls:
            yield f"{home}.{cls.__qualname__}"
