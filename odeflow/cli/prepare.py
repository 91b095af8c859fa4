"""The configuration of a request, completed and checked before it is parsed."""

import contextlib
import inspect
import logging
import sys
import warnings
from typing import Any

from odeflow.cli import configuration
from odeflow.config.request import Request
from odeflow.errors import PluginError
from odeflow.plugin import registry
from odeflow.plugin.plugin import import_path
from odeflow.plugin.spec import class_spec, mapping, named_spec, path_of, sequence
from odeflow.training import checkpoint
from odeflow.training.task import Task

SIZES = ("num_classes", "num_outputs", "num_conditions", "num_covariates", "dim")
LINKS = {size: size for size in SIZES} | {"shape": "input_shape"}
"""The options of a task that are linked from the data, with the attribute of the data."""

CHATTER = (
    ".*does not have many workers.*",  # data sets that need workers have an option
    ".*configure_optimizers` will be overridden.*",  # intended: the recipe sets the optimizer
    ".*overrides the configure_model callback.*",  # which refuses a strategy, and makes no layers
    ".*`IterableDataset` has `__len__` defined.*",  # tables are streamed without workers
    ".*callbacks used to create the checkpoint need to be provided.*",  # not for evaluation
    ".*isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # internal to Lightning
    r"\s*(``instantiate_classes`` was deprecated|By default only one JsonargparseDeprecationWarning)",  # likewise
    ".*The dirpath has changed from.*",  # a resumed run has its own folder and best checkpoint
    ".*dataloader is not resumable.*",  # Randomness resumes it
    ".*Couldn't infer the batch indices.*",  # not defined for data that make their own batches
    ".*Experiment logs directory .* exists and is not empty.*",  # the folder of the run's other files
)
"""Warnings that are irrelevant to users of recipes."""
TIPS = ("💡 Tip", "Loading `train_dataloader` to estimate")
"""Beginnings of Lightning's notes that are irrelevant, too: advertisements, and what it does."""


def prepared(command: str, request: Request) -> dict[str, Any]:
    """The configuration of a request for the parser: without the command-line options, but checked with them.

    Args:
        command: The command's name.
        request: The arguments after the command.

    Raises:
        OdeflowError: The request is invalid.
    """
    asked = request.ckpt_path
    config = request.configuration(command, checkpoint.specs)
    request.settle_nulls(config)
    for note in (*request.replaced, *(f"{wrong}. The one before is used" for wrong in request.damaged)):
        print(f"note: {note}", file=sys.stderr)  # noqa: T201
    if request.ckpt_path != asked:
        print(f"checkpoint: {request.ckpt_path}", file=sys.stderr)  # noqa: T201
    _follow_moved(config.get("model"))
    _follow_moved(config.get("data"))
    _size_dynamics(request, request.effective(config))
    configuration.check(request.effective(config))
    if request.ckpt_path is not None:
        contents = checkpoint.read(request.ckpt_path)
        if command == "plot":  # reads weights and specs alone
            checkpoint.state(contents, request.ckpt_path)
        else:
            checkpoint.require(contents, request.ckpt_path, resume=command == "fit")
    _drop_linked_sizes(config)
    for message in CHATTER:
        warnings.filterwarnings("ignore", message=message)
    for handler in logging.getLogger("lightning.pytorch").handlers:
        handler.addFilter(_worth_reading)
    return config


def _worth_reading(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(TIPS)


def _follow_moved(node: Any) -> None:
    """Updates the stored class paths of plugins that have moved since."""
    spec = class_spec(node)
    path = path_of(spec)
    if spec is not None and "." in path:
        with contextlib.suppress(PluginError):  # a missing plugin is reported later, if it is still needed
            spec["class_path"] = import_path(registry.class_of(path))
    for inner in (mapping(node) or {}).values():
        _follow_moved(inner)
    for inner in sequence(node) or ():
        _follow_moved(inner)


def _size_dynamics(request: Request, config: dict[str, Any]) -> None:
    """Sets the `dim` of the dynamics, if not given, from the data, for tasks whose flow carries the data."""
    model, data = named_spec(config.get("model")), named_spec(config.get("data"))
    options = mapping((model or {}).get("init_args")) or {}
    dynamics = named_spec(options.get("dynamics"))
    if model is None or data is None or dynamics is None or "dim" in (mapping(dynamics.get("init_args")) or {}):
        return
    with contextlib.suppress(PluginError):  # an unknown plugin is explained later
        task, field = registry.class_of(path_of(model)), path_of(dynamics)
        field = registry.class_of(field) if "." in field else registry.look_up("dynamics", field)
        if not issubclass(task, Task) or not task.carries_data or "dim" not in inspect.signature(field).parameters:
            return
        built = registry.build(data)
        dim = getattr(built, "dim", None)
        if isinstance(dim, int) and options.get("shape") is None:
            flow = mapping(options.get("flow")) or {}
            beside = sum(getattr(built, size, 0) for size in ("num_conditions", "num_covariates"))
            beside += int(flow.get("augment") or 0)
            request.choose("model.dynamics.dim", dim + beside)


def _drop_linked_sizes(config: dict[str, Any]) -> None:
    """Removes the sizes linked from the data, which a checkpoint's model spec contains too."""
    model = mapping(config.get("model"))
    if model is not None and "data" in config:
        for size in LINKS:
            (mapping(model.get("init_args")) or {}).pop(size, None)
