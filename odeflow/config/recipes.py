"""Recipes: YAML files, one per experiment, found by name and merged."""

import contextlib
import copy
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from odeflow.errors import RecipeError
from odeflow.plugin.registry import mapping_options, packages, unknown
from odeflow.plugin.spec import mapping, sequence, shown

PACKAGE = Path(__file__).parents[1]
TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))
"""The YAML types allowed in a recipe: no dates, sets or binary data."""
SWEEPS = "sweeps"
"""The folder of recipes that holds sweeps of W&B."""
DEEPEST, MOST = 50, 100_000
"""Maximum nesting depth and number of values in a recipe. Values behind an alias count each time."""
APPENDS = "+"
"""Suffix of a key whose list is appended to the list below instead of replacing it."""


class _Loader(yaml.SafeLoader):
    """Loads YAML of plain data, limited in depth and size, and rejects duplicate keys.

    Numbers may be written 1e-3, as in YAML 1.2. Plain PyYAML reads that as a string, and keeps the last of two
    equal keys.
    """

    yaml_constructors = {  # noqa: RUF012
        tag: build for tag, build in yaml.SafeLoader.yaml_constructors.items() if tag in (*TAGS, None)
    }
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if tag in (*TAGS, "tag:yaml.org,2002:merge")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> Any:
        """The document's root node, checked before construction."""
        node = super().get_single_node()
        for count, _ in enumerate(_nodes(node)):
            if count > MOST:
                raise ConstructorError(None, None, f"it holds more than {MOST:,} values")
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _nodes(node: Any, depth: int = 0) -> Iterator[yaml.Node]:
    """A node and all its descendants. A node behind an alias is yielded at each occurrence.

    Raises:
        ConstructorError: The nodes nest too deeply, or a mapping has duplicate keys or a key that is not a scalar.
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
    """Parses YAML into plain data.

    Raises:
        YAMLError: `text` is not valid YAML, or contains more than plain data.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as problem:
        raise ConstructorError(None, None, f"nested deeper than {DEEPEST} levels") from problem
    except (ValueError, LookupError) as problem:  # !!bool x, 0x_, or an integer of thousands of digits
        raise ConstructorError(None, None, f"a value is not what it says to be: {problem}"[:200]) from problem


def _roots() -> Iterator[tuple[str, Path]]:
    """(name prefix, folder): odeflow's own recipes, then those of plugin packages."""
    shipped = PACKAGE / "recipes"
    yield "", shipped if shipped.is_dir() else PACKAGE.parent / "recipes"
    for entry in packages():
        package = find_spec(entry.module.partition(".")[0])  # does not import the package
        for folder in (package.submodule_search_locations or ()) if package else ():
            if (Path(folder) / "recipes").is_dir():
                yield f"{entry.name}/", Path(folder) / "recipes"


def available() -> dict[str, Path]:
    """All recipes by name, sorted: "spiral", "mnist/ode_net", …; recipes of a package are prefixed by its entry point.

    Raises:
        RecipeError: Two recipes share a name.
    """
    return {name: file for name, file in _files().items() if file.parent.name != SWEEPS}


def sweeps() -> dict[str, Path]:
    """The sweeps of W&B by name, sorted, such as "sweeps/spiral". They are no recipes, but `wandb sweep` takes them."""
    return {name: file for name, file in _files().items() if file.parent.name == SWEEPS}


def _files() -> dict[str, Path]:
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
    """The path of a recipe's trained weights, `weights/<name>.safetensors` beside it. The file may not exist.

    Raises:
        RecipeError: There is no such recipe or file.
    """
    file = find(name)
    return file.parent / "weights" / f"{file.stem}.safetensors"


def read(name: str) -> dict[str, Any]:
    """A recipe's contents.

    Raises:
        RecipeError: There is no such recipe, or it is not a YAML mapping.
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
    """The text of a recipe.

    Raises:
        RecipeError: The file cannot be read, or is not text.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise RecipeError(f"{file} is not YAML: {problem}") from problem


def headline(file: Path) -> str:
    """The first comment line of a recipe: its description."""
    first = text(file).partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


@dataclass(frozen=True)
class Known:
    """A result of a recipe that is known, from a comment in it.

    Attributes:
        metric: The metric, as "test/accuracy".
        value: Its value.
        source: Who measured it, or where it is published.
    """

    metric: str
    value: float
    source: str


def known_results(recipe: str) -> list[Known]:
    """The known results of a recipe, of its comments `# known: test/accuracy 0.9958, Chen et al. (2018), table 1`."""
    found = re.findall(r"^# known: (\S+) ([-+.\de]+), (.+)$", recipe, re.MULTILINE)
    return [Known(metric, float(value), source.strip()) for metric, value, source in found]


def merge(base: Any, over: Any) -> Any:
    """Merges `over` into `base` recursively. Mappings are merged; lists and scalars replace.

    An option of a plugin whose value is a mapping itself, such as the equations of `Equations`, is replaced. The list
    of a key such as `callbacks+` is appended to the list below, or creates it. If `over` names another class, all
    options of the old class are dropped: options of the same name may have different meanings.

    Raises:
        RecipeError: A key ending in `+` appends to a value that is not a list.
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
            under = below.get(key)
            if key == "init_args":
                under = _without_mappings(above.get("class_path", below.get("class_path")), under, above[key])
            merged[key] = merge(under, above[key])
        else:
            merged[name] = appended(name, merged.get(name), merge(None, above[key]))
    return merged


def _without_mappings(path: Any, options: Any, over: Any) -> Any:
    """The options of a plugin without mappings that others replace, also in groups of options."""
    kept = copy.deepcopy(options)
    for option in mapping_options(str(path)):
        *outer, name = option.split(".")
        below, above = mapping(kept), mapping(over)
        for group in outer:
            below, above = (mapping((each or {}).get(group)) for each in (below, above))
        if below and above and name in above:
            below.pop(name, None)
    return kept


def appended(name: str, present: Any, more: Any) -> list[Any]:
    """A list with `more` appended: all items of a list, or a single item.

    Args:
        name: The key, for the message.
        present: The existing list; None if there is none; a class spec counts as a list of one.
        more: The items to append.

    Raises:
        RecipeError: `present` is not a list.
    """
    items = sequence(present)
    if items is None and present is not None and not isinstance(present, str) and mapping(present) is None:
        raise RecipeError(f"{name}{APPENDS} appends to a list; {name} is {shown(present)}. Write {name} to replace it")
    items = items if items is not None else [] if present is None else [present]
    added = sequence(more)
    return [*items, *([more] if added is None else added)]


def same_class(one: Any, other: Any) -> bool:
    """Whether two class paths name the same class. Either may be a bare name."""
    if not (isinstance(one, str) and isinstance(other, str)):
        return one == other
    if "." in one and "." in other:
        return one == other
    return one.rpartition(".")[2] == other.rpartition(".")[2]
