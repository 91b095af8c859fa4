"""Recipes: one YAML file an experiment, found by name, and what happens when several are merged."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from odeflow.errors import RecipeError
from odeflow.plugin.registry import GROUP, unknown
from odeflow.plugin.spec import mapping, sequence, shown

PACKAGE = Path(__file__).parents[1]
TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))
"""What a recipe is made of: no dates, sets or binary data."""
DEEPEST, MOST = 50, 100_000
"""How deep the values of a recipe may nest, and how many there may be, those behind an alias counted each time."""
APPENDS = "+"
"""At the end of a key: its list is appended to the one below."""


class _Loader(yaml.SafeLoader):
    """YAML of plain data in bounds, without duplicate keys.

    Numbers may be written 1e-3, as in YAML 1.2; PyYAML alone takes that for a string. It also lets the second of two
    equal keys win.
    """

    yaml_constructors = {  # noqa: RUF012
        tag: build for tag, build in yaml.SafeLoader.yaml_constructors.items() if tag in (*TAGS, None)
    }
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if tag in (*TAGS, "tag:yaml.org,2002:merge")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> Any:
        """The document, checked before anything is made of it."""
        node = super().get_single_node()
        for count, _ in enumerate(_nodes(node)):
            if count > MOST:
                raise ConstructorError(None, None, f"it holds more than {MOST:,} values")
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _nodes(node: Any, depth: int = 0) -> Iterator[yaml.Node]:
    """A node and all nodes in it, one behind an alias each time that it is met.

    Raises:
        ConstructorError: They nest too deeply, or a mapping has two equal keys or one that is no word or number.
    """
    if depth > DEEPEST:
        raise ConstructorError(None, None, f"nested deeper than {DEEPEST} levels", node.start_mark)
    yield node
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _nodes(item, depth + 1)
    if isinstance(node, yaml.MappingNode):
        _check_keys(key for key, _ in node.value)
        for _, item in node.value:
            yield from _nodes(item, depth + 1)


def _check_keys(keys: Iterable[yaml.Node]) -> None:
    lines: dict[str, int] = {}
    for key in keys:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:null":
            raise ConstructorError(None, None, "a key must be a word", key.start_mark)
        if key.value in lines:
            said = f"the key {key.value} was given in line {lines[key.value]} already; merge the two"
            raise ConstructorError(None, None, said, key.start_mark)
        lines[key.value] = key.start_mark.line + 1


def parse(text: str) -> Any:
    """The plain data that YAML says.

    Raises:
        YAMLError: It is no YAML, or more than plain data.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as problem:
        raise ConstructorError(None, None, f"nested deeper than {DEEPEST} levels") from problem
    except (ValueError, LookupError) as problem:  # !!bool x, 0x_, or an integer of thousands of digits
        raise ConstructorError(None, None, f"a value is not what it says to be: {problem}"[:200]) from problem


def _roots() -> Iterator[tuple[str, Path]]:
    """(prefix of the names, folder): odeflow's own recipes, then those of plugin packages."""
    shipped = PACKAGE / "recipes"
    yield "", shipped if shipped.is_dir() else PACKAGE.parent / "recipes"
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
    with contextlib.suppress(OSError):  # a name too long for a file
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
        contents = parse(text(file))
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(f"{file}{where}: this is not valid YAML: {problem.problem}") from problem
    except yaml.YAMLError as problem:
        raise RecipeError(f"{file} is not YAML: {str(problem).partition(chr(10))[0]}") from problem
    keys = mapping(contents)
    if keys is None:
        raise RecipeError(f"{file} must hold keys such as model, data and trainer; it holds {shown(contents)}")
    return keys


def text(file: Path) -> str:
    """A recipe as it is written.

    Raises:
        RecipeError: The file cannot be read, or is no text.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise RecipeError(f"{file} is not YAML: {problem}") from problem


def headline(file: Path) -> str:
    """The first comment line of a recipe: what it is."""
    first = text(file).partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


def merge(base: Any, over: Any) -> Any:
    """`over` laid onto `base`, mapping by mapping; lists and values replace, but that of a key such as `callbacks+`.

    That one is appended to the list below, or begins it. Where `over` names another class, nothing of the old class's
    options survives: two classes' options of one name need not mean the same.

    Raises:
        RecipeError: Something is appended to what is no list.
    """
    above, items = mapping(over), sequence(over)
    if items is not None:
        return [merge(None, item) for item in items]
    if above is None:
        return over
    below = mapping(base) or {}
    if "class_path" in below and "class_path" in above and not same_class(below["class_path"], above["class_path"]):
        below = {}
    merged = dict(below)
    for key in sorted(above, key=lambda key: str(key).endswith(APPENDS)):
        name = str(key).removesuffix(APPENDS)
        if name == key:
            merged[key] = merge(below.get(key), above[key])
        else:
            merged[name] = appended(name, merged.get(name), merge(None, above[key]))
    return merged


def appended(name: str, present: Any, more: Any) -> list[Any]:
    """A list with `more` at its end: the items of a list, or else one item.

    Args:
        name: The key, for the message.
        present: The list, None where there is none yet, or a class that stands for a list of one.
        more: What is appended.

    Raises:
        RecipeError: It is no list.
    """
    items = sequence(present)
    if items is None and present is not None and not isinstance(present, str) and mapping(present) is None:
        raise RecipeError(f"{name}{APPENDS} appends to a list; {name} is {shown(present)}. Write {name} to replace it")
    items = items if items is not None else [] if present is None else [present]
    added = sequence(more)
    return [*items, *([more] if added is None else added)]


def same_class(one: Any, other: Any) -> bool:
    """Whether two class paths, of which one may be a bare name, mean the same class."""
    if not (isinstance(one, str) and isinstance(other, str)):
        return one == other
    if "." in one and "." in other:
        return one == other
    return one.rpartition(".")[2] == other.rpartition(".")[2]
