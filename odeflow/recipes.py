"""Recipes: one YAML file an experiment, found by name, and what happens when several are merged."""

import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from odeflow.errors import RecipeError
from odeflow.plain import mapping
from odeflow.registry import GROUP, unknown

HERE = Path(__file__).parent


class _Loader(yaml.SafeLoader):
    """YAML whose numbers may be written 1e-3, as in YAML 1.2; PyYAML alone takes that for a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _roots() -> Iterator[tuple[str, Path]]:
    """(prefix of the names, folder): odeflow's own recipes, then those of plugin packages."""
    shipped = HERE / "recipes"
    yield "", shipped if shipped.is_dir() else HERE.parent / "recipes"
    for entry in entry_points(group=GROUP):
        package = find_spec(entry.module.partition(".")[0])  # finds it without importing it
        for folder in (package.submodule_search_locations or ()) if package else ():
            if (Path(folder) / "recipes").is_dir():
                yield f"{entry.name}/", Path(folder) / "recipes"


def available() -> dict[str, Path]:
    """All recipes by name, sorted: "spiral", "mnist/ode_net", …; those of a package begin with its entry's name.

    Raises:
        RecipeError: Two recipes share a name.
    """
    found: dict[str, Path] = {}
    for prefix, folder in _roots():
        for file in folder.rglob("*.yaml"):
            name = prefix + file.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise RecipeError(f"two recipes are called {name}: {found[name]} and {file}. Rename one")
            found[name] = file
    return dict(sorted(found.items()))


def find(name: str) -> Path:
    """The file of a recipe, by its name or its path.

    Raises:
        RecipeError: There is no such recipe or file.
    """
    recipes = available()
    if name in recipes:
        return recipes[name]
    if Path(name).is_file():
        return Path(name)
    raise RecipeError(unknown("recipe or file", name, recipes))


def weights(name: str) -> Path:
    """Where a recipe's trained weights are, if it has any: `weights/<its name>.safetensors` beside it.

    Raises:
        RecipeError: There is no such recipe or file.
    """
    file = find(name)
    return file.parent / "weights" / f"{file.stem}.safetensors"


def read(name: str) -> dict[str, Any]:
    """A recipe's contents.

    Raises:
        RecipeError: There is no such recipe, or it is not YAML with keys at the top.
    """
    file = find(name)
    try:
        contents = yaml.load(file.read_text(), _Loader)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(f"{file}{where}: this is not valid YAML: {problem.problem}") from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise RecipeError(f"{file} is not YAML: {str(problem).partition(chr(10))[0]}") from problem
    keys = mapping(contents)
    if keys is None:
        raise RecipeError(f"{file} must hold keys such as model, data and trainer; it holds {contents!r}")
    return keys


def headline(file: Path) -> str:
    """The first comment line of a recipe: what it is."""
    first = file.read_text().partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


def merge(base: Any, over: Any) -> Any:
    """`over` laid onto `base`, mapping by mapping; lists and values replace.

    Where `over` names another class, nothing of the old class's options survives: two classes' options of one name
    need not mean the same.
    """
    below, above = mapping(base), mapping(over)
    if below is None or above is None:
        return over
    if "class_path" in below and "class_path" in above and not same_class(below["class_path"], above["class_path"]):
        return over
    both = below.keys() & above.keys()
    return {**below, **above, **{key: merge(below[key], above[key]) for key in both}}


def same_class(one: str, other: str) -> bool:
    """Whether two class paths, of which one may be a bare name, mean the same class."""
    if "." in one and "." in other:
        return one == other
    return one.rpartition(".")[2] == other.rpartition(".")[2]
