"""`odeflow schema`: the JSON schema of recipes, with which editors complete and check them."""

import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from odeflow.cli.options import Options
from odeflow.config.recipes import APPENDS
from odeflow.config.request import SETTINGS, Request
from odeflow.plugin import registry
from odeflow.plugin.description import hints, meanings
from odeflow.plugin.plugin import Plugin, constructor_options, groups
from odeflow.training import schedule as schedule  # its schedules are offered
from odeflow.training.callbacks import GROUPS

Schema = dict[str, Any]
SIMPLE: dict[Any, str] = {
    int: "integer",
    float: "number",
    Tensor: "number",  # the learning rate of torch's optimizers is float | Tensor
    bool: "boolean",
    str: "string",
    Path: "string",
    NoneType: "null",
}
FOREIGN = {"optimizer": Optimizer, "lr_scheduler": LRScheduler, "logger": Logger, "callback": Callback}
"""Classes of torch and Lightning that a recipe names, beside plugins."""
HELP = """\
Prints the JSON schema by which an editor completes and checks recipes: odeflow schema --output odeflow.schema.json, and
begin a recipe by the line  # yaml-language-server: $schema=odeflow.schema.json
"""


def schema(words: list[str]) -> int:
    """Runs the command.

    Raises:
        OdeflowError: The options are invalid.
    """
    request = Request.of(words)
    parser = Options("schema", HELP, "--plugins FILE|FOLDER|MODULE adds plugins that are not installed.")
    parser.add_argument("--output", metavar="FILE", type=Path, help="the file to write; by default it is printed")
    given = parser.read(request.words, ("output",))
    registry.discover(request.plugins)
    text = json.dumps(recipe_schema(), indent=1)
    if given.output is None:
        print(text)  # noqa: T201
    else:
        given.output.write_text(text, encoding="utf-8")
    return 0


def recipe_schema() -> Schema:
    """The JSON schema (draft 7) of recipes with the plugins that are imported."""
    kinds = {kind: registry.plugins(kind) for kind in registry.kinds()}
    foreign = {name: _foreign(contract) for name, contract in FOREIGN.items()}
    definitions: Schema = {}
    for kind, known in {**kinds, **foreign}.items():
        definitions[kind] = _class_spec(kind, known)
        for name, cls in known.items():
            definitions[f"{kind}.{name}"] = _options(cls, skip=kind in ("optimizer", "lr_scheduler"))
    trainer = _options(Trainer)
    trainer["properties"] |= {
        name: {"description": trainer["properties"][name].get("description", ""), "anyOf": several}
        for name, several in (
            ("logger", [{"type": ["boolean", "null"]}, *_several("logger")]),
            ("callbacks", [{"type": "null"}, *_several("callback")]),
        )
    }
    trainer["properties"][f"callbacks{APPENDS}"] = {"anyOf": _several("callback")}
    sections = {"model": "task", "data": "data", "optimizer": "optimizer", "lr_scheduler": "lr_scheduler"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A recipe of odeflow",
        "type": "object",
        "properties": {key: {"anyOf": [{"type": "null"}, _reference(kind)]} for key, kind in sections.items()}
        | {"trainer": trainer}
        | {setting: {} for setting in SETTINGS}
        | {name: _options(group) for name, group in GROUPS.items()}
        | {"seed_everything": {"type": ["integer", "boolean"]}},
        "additionalProperties": False,
        "definitions": definitions,
    }


def _foreign(contract: type) -> dict[str, type]:
    """The classes that the command line knows by name without being plugins."""
    return {cls.__name__: cls for cls in registry.subclasses(contract) if not cls.__name__.startswith("_")}


def _reference(kind: str) -> Schema:
    return {"$ref": f"#/definitions/{kind}"}


def _several(kind: str) -> list[Schema]:
    return [_reference(kind), {"type": "array", "items": _reference(kind)}]


def _class_spec(kind: str, known: Mapping[str, type]) -> Schema:
    """A class by name, or with options; in an overlay, options of the class below."""
    elsewhere = {"type": "string", "pattern": r"\."}
    name: Schema = {"anyOf": [{"enum": sorted(known)}, elsewhere]}
    chosen = [
        {
            "if": {"properties": {"class_path": {"pattern": rf"^(.*\.)?{each}$"}}, "required": ["class_path"]},
            "then": {"properties": {"init_args": _reference(f"{kind}.{each}")}},
        }
        for each in sorted(known)
    ]
    parts = {"class_path": name, "init_args": {"type": "object"}, "dict_kwargs": {"type": "object"}}
    spec = {"type": "object", "properties": parts, "additionalProperties": False, "allOf": chosen}
    return {"if": {"type": "string"}, "then": name, "else": spec}


def _options(cls: type, skip: bool = False) -> Schema:
    """The options of a class.

    Args:
        cls: The class.
        skip: Whether the first parameter is not an option, as the parameters of an optimizer.
    """
    types, inside, texts = hints(cls), groups(cls), meanings(cls)
    properties: Schema = {}
    free = False
    for name, parameter in list(constructor_options(cls).items())[int(skip) :]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            free |= parameter.kind is parameter.VAR_KEYWORD
            continue
        option = _options(inside[name]) if name in inside else _type(types.get(name, Any))
        if texts.get(name):
            option = {"description": texts[name], **option} if "$ref" not in option else option
        default = parameter.default
        if isinstance(default, (str, int, float, bool)) and "$ref" not in option:
            option = {**option, "default": default}
        properties[name] = option
        if option.get("type") == "array":
            properties[f"{name}{APPENDS}"] = option
    return {"type": "object", "properties": properties, "additionalProperties": free}


def _type(annotation: Any) -> Schema:
    """The schema of a type; {}, which accepts everything, of one that is not plain."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in SIMPLE:
        return {"type": SIMPLE[annotation]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, UnionType):
        several = [_type(each) for each in inner]
        return {} if {} in several else {"anyOf": several}
    if origin in (list, Sequence) and inner:
        return {"type": "array", "items": _type(inner[0])}
    if origin is tuple and inner:
        every = [_type(each) for each in inner if each is not Ellipsis]
        return {"type": "array", "items": {"anyOf": every} if len(every) > 1 else every[0]}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _type(inner[1]) if inner else {}}
    if isinstance(annotation, type) and issubclass(annotation, Plugin) and "kind" in vars(annotation):
        return _reference(annotation.kind)
    return {}
