"""The installed plugins as plain data, kept in a file, so that they can be listed without importing them."""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from odeflow import __version__
from odeflow.plugin import registry
from odeflow.plugin.description import Description

Catalogue = dict[str, list[Description]]
"""The plugins of each kind, sorted by name."""


def read(extra: Iterable[str] = ()) -> Catalogue:
    """The installed plugins, without importing them if none of their files has changed since this was last asked.

    Args:
        extra: Files, folders of files, or modules of further plugins, which are imported.

    Raises:
        PluginError: A plugin named by the user cannot be imported, or two plugins of a kind share a name.
    """
    named = list(extra)
    if named or os.environ.get(registry.VARIABLE) or registry.loaded():
        return imported(named)
    plain = cached(
        "plugins", lambda: {kind: [asdict(each) for each in several] for kind, several in imported().items()}
    )
    return {kind: [Description.read(each) for each in several] for kind, several in plain.items()}


def cached(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Plain data about the installed plugins, from a file in the user's cache folder or made anew.

    They are made anew if a file of odeflow or of a plugin package has changed, and not kept if a package failed.

    Args:
        name: The stem of the file.
        make: Makes the data.
    """
    file, key = user_cache_path("odeflow") / f"{name}.json", _key()
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return kept["content"]
    except (OSError, ValueError, LookupError, TypeError):  # absent, or damaged
        pass
    content = make()
    if not registry.failures():
        _write(file, {"key": key, "content": content})
    return content


def imported(extra: Iterable[str] = ()) -> Catalogue:
    """The plugins that are imported, after the installed ones and `extra` have been."""
    registry.discover(extra)
    return {kind: [Description.of(cls) for cls in registry.plugins(kind).values()] for kind in registry.kinds()}


def _write(file: Path, content: dict[str, Any]) -> None:
    part = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(file)
    except (OSError, TypeError):  # no folder to write to, or a choice that is not plain: it is made each time
        part.unlink(missing_ok=True)


def _key() -> str:
    """A hash of what the catalogue depends on: versions, entry points, and the time and size of every source file."""
    entries = sorted((entry.name, entry.value) for entry in registry.packages())
    packages = {"odeflow", *(value.partition(":")[0].partition(".")[0] for _, value in entries)}
    files = [(str(file), (found := file.stat()).st_mtime_ns, found.st_size) for file in _sources(packages)]
    facts = (__version__, platform.python_version(), entries, sorted(files))
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _sources(packages: Iterable[str]) -> Iterator[Path]:
    for package in packages:
        spec = find_spec(package)  # does not import a package without a dot
        if spec is None:
            continue
        if spec.submodule_search_locations is None:
            yield Path(spec.origin or "")
        for folder in spec.submodule_search_locations or ():
            yield from Path(folder).rglob("*.py")
