"""`odeflow fit | validate | test | predict`: runs a command of Lightning with recipes and options."""

import json
import os
from dataclasses import replace
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException

from odeflow.cli import configuration, explain
from odeflow.cli.command import Command
from odeflow.cli.family import end_with_parent, leave_group
from odeflow.cli.loggers import Place, name_loggers
from odeflow.cli.options import run_of
from odeflow.cli.prepare import prepared
from odeflow.cli.startup import importing
from odeflow.config.checkpoints import other_than
from odeflow.config.record import RunRecord
from odeflow.config.request import Request
from odeflow.errors import CheckpointError, OdeflowError, SettingError
from odeflow.plugin import registry
from odeflow.plugin.spec import mapping
from odeflow.training import checkpoint, weights
from odeflow.training.task import KEY


def run(command: str, words: list[str]) -> None:
    """Runs a Lightning command.

    Args:
        command: fit, validate, test or predict.
        words: The arguments after the command.

    Raises:
        OdeflowError: The request is invalid, or the run failed for a known reason.
    """
    end_with_parent()
    request = Request.of(words)
    with importing():
        registry.discover(request.plugins)
    if request.help:
        configuration.check_help(request.options)
        Command([command, *request.words])
        return
    record = RunRecord.begin(command, request)
    config = prepared(command, request)
    origin = request.ckpt_path or request.weights
    trained = run_of(Path(origin)) if origin else None
    stored = None if trained is None else RunRecord.read(trained)
    label = request.label or (command if stored is None else stored.recipe)
    if command != "fit" and request.ckpt_path is not None and trained is not None and os.access(trained, os.W_OK):
        place = Place(trained, command, label, command, stored)
    else:
        place = Place(Path("runs"), label, label, command)
    name_loggers(config, request, place)
    try:
        Command(
            [command, "--config", json.dumps(config), *request.words],
            pretrained=request.pretrained(),
            lost=request.lost(config) if command == "fit" else (),
            place=place,
            record=replace(record, recipe=label, ckpt_path=request.ckpt_path),
        )
    except OdeflowError:
        raise
    except (MisconfigurationException, *registry.UNBUILDABLE) as problem:
        if request.ckpt_path is not None and "loading state_dict" in str(problem):
            then = mapping(checkpoint.read(request.ckpt_path).get(KEY)) or {}
            raise weights.misfit(request.ckpt_path, problem, then, request.effective(config)) from problem
        if request.ckpt_path is not None and explain.restoring(problem):
            reason = f"cannot be used: {registry.cause(problem)}. {other_than(request.ckpt_path)}"
            raise CheckpointError(f"{request.ckpt_path} {reason}") from problem
        reason = explain.failed(problem)
        if reason is None:
            raise
        raise SettingError(reason) from problem
    leave_group()
