"""`odeflow plugins new KIND NAME [--package]`: a plugin to begin with, its test, and how to run it."""

import json
import keyword
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from odeflow.config import recipes
from odeflow.errors import PluginError
from odeflow.plugin import catalogue, registry
from odeflow.plugin.spec import mapping, sequence

TEMPLATES = Path(__file__).with_name("templates")
SEPARATOR = "=== test\n"
"""The line of a template between the plugin and its test."""
NAME = re.compile(r"[A-Z][A-Za-z0-9]*")
TRIALS: dict[str, tuple[str, dict[str, Any]]] = {
    "solver": ("spiral", {"solver": {"class_path": "NAME", "init_args": {"num_steps": 10}}}),
    "dynamics": ("spiral", {"dynamics": {"class_path": "NAME", "init_args": {"dim": 2}}}),
    "gradient": ("spiral", {"gradient": {"class_path": "NAME"}}),
    "regularizer": (
        "spiral",
        {"flow": {"regularizers": [{"class_path": "NAME", "init_args": {"weight": 0.01}}]}},
    ),
    "divergence": ("density/two_moons", {"divergence": {"class_path": "NAME"}}),
    "base": ("density/two_moons", {"base": {"class_path": "NAME"}}),
    "stem": ("digits/ode_net", {"stem": {"class_path": "NAME"}}),
    "head": ("digits/ode_net", {"head": {"class_path": "NAME"}}),
    "encoder": ("latent/periodic", {"encoder": {"class_path": "NAME"}}),
    "likelihood": ("latent/periodic", {"readout": {"likelihood": {"class_path": "NAME"}}, "refine": {"steps": 0}}),
}
"""The recipe in which a plugin of a kind is tried, and the options of its task that name the plugin."""


def kinds() -> list[str]:
    """The kinds of plugins that can be begun."""
    return sorted(file.stem for file in TEMPLATES.glob("*.txt"))


def new(kind: str, name: str, package: bool) -> list[str]:
    """Writes a plugin and its test into the working directory.

    Args:
        kind: Its kind.
        name: The name of its class.
        package: Whether to write a package that can be installed, with a recipe.

    Returns:
        What to do next, in lines.

    Raises:
        PluginError: The kind is unknown, the name is no class name or taken, or a file exists.
    """
    if kind not in kinds():
        raise PluginError(registry.unknown("kind of plugin", kind, kinds()))
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise PluginError(f"a plugin is called by its class, such as MySolver; got {name!r}")
    for each in catalogue.read().get(kind, []):
        if each.name == name:
            raise PluginError(f"there is a {kind} {name} already: {each.path}; choose another name")
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    source, test = _filled(kind, name, module)
    if not package:
        _write({f"{module}.py": source, f"test_{module}.py": test})
        return [
            f"{module}.py: the {kind} {name}; test_{module}.py: its test",
            f"  python -m pytest test_{module}.py",
            *_runs(kind, name, module),
        ]
    _, test = _filled(kind, name, f"odeflow_{module}")
    folder, home = f"odeflow-{module.replace('_', '-')}", f"odeflow_{module}"
    texts = {
        f"{home}/{module}.py": source,
        f"{home}/__init__.py": f'"""{name}, a {kind} for odeflow."""\n\nfrom {home}.{module} import {name} as {name}\n',
        f"tests/test_{module}.py": test,
        "pyproject.toml": PYPROJECT.format(folder=folder, kind=kind, name=name, module=module, home=home),
        "README.md": README.format(folder=folder, kind=kind, name=name, module=module, fit=_fit(kind, module)),
    }
    if recipe := _recipe(kind, name):
        texts[f"{home}/recipes/example.yaml"] = recipe
    _write({f"{folder}/{file}": text for file, text in texts.items()})
    run = _fit(kind, module)
    return [f"{folder}/: the {kind} {name} as a package", f"  pip install -e {folder} && pytest {folder}", f"  {run}"]


PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{folder}"
version = "0.1.0"
description = "{name}, a {kind} for odeflow"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["odeflow"]

[project.entry-points."odeflow.plugins"]
{module} = "{home}" # importing it defines the plugin; its recipes are {module}/…
"""
README = """\
# {folder}

{name}, a {kind} for [odeflow](https://pypi.org/project/odeflow).

    pip install -e .
    odeflow plugins show {name}
    {fit}
    pytest
"""


def _filled(kind: str, name: str, module: str) -> tuple[str, str]:
    """The template's plugin and its test."""
    text = (TEMPLATES / f"{kind}.txt").read_text(encoding="utf-8").replace("NAME", name).replace("MODULE", module)
    source, _, test = text.partition(SEPARATOR)
    return source, test


def _write(texts: Mapping[str, str]) -> None:
    """Writes files, all or none.

    Raises:
        PluginError: One exists.
    """
    for file in texts:
        if Path(file).exists():
            raise PluginError(f"{file} exists already; choose another name or folder")
    for file, text in texts.items():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(text, encoding="utf-8")


def _trial(kind: str, name: str) -> tuple[str, dict[str, Any]] | None:
    """The recipe in which a plugin is tried, and what is laid over it; None if no recipe takes such plugins."""
    if kind == "data":
        return "spiral", {"data": {"class_path": name}}
    if kind == "task":
        return "spiral", {"model": {"class_path": name, "init_args": {"dynamics": "MLP", "solver": "Dopri5"}}}
    if kind not in TRIALS:
        return None
    recipe, options = TRIALS[kind]
    return recipe, {"model": {"init_args": json.loads(json.dumps(options).replace("NAME", name))}}


def _recipe(kind: str, name: str) -> str | None:
    """The text of a recipe with the plugin."""
    trial = _trial(kind, name)
    if trial is None:
        return None
    merged = recipes.merge(recipes.read(trial[0]), trial[1])
    if kind == "task":
        merged["model"]["init_args"]["dynamics"] = {"class_path": "MLP", "init_args": {"dim": 2}}
    text = yaml.safe_dump(merged, sort_keys=False, default_flow_style=None, width=100)
    return f"# The recipe {trial[0]} with the {kind} {name}\n{text}"


def _fit(kind: str, module: str) -> str:
    """The command that tries the plugin of an installed package."""
    return f"odeflow fit -c {module}/example" if kind in (*TRIALS, "data", "task") else "odeflow plugins list"


def _runs(kind: str, name: str, module: str) -> list[str]:
    """The command that tries the plugin of a file; none if no recipe takes such plugins."""
    trial = _trial(kind, name)
    if trial is None:
        return [f"  odeflow plugins --plugins {module}.py show {name}"]
    options = " ".join(f"--{option} {value}" for key, part in trial[1].items() for option, value in _typed(key, part))
    return [f"  odeflow fit -c {trial[0]} --plugins {module}.py {options}"]


def _typed(place: str, part: Any) -> Iterator[tuple[str, Any]]:
    """The options that say what a recipe's part says."""
    items, entries = sequence(part), mapping(part)
    if items is not None:
        for item in items:
            (_, first), *rest = _typed(place, item)
            yield f"{place}+", first
            yield from rest
    elif entries is None:
        yield place, part
    else:
        for key, inner in entries.items():
            within = place if key in ("class_path", "init_args") else f"{place}.{key}"
            yield from _typed(within, inner)
