"""Arrays from `.npz` files, and what to say where they are not there."""

import zipfile
import zlib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import odeflow as of

UNREADABLE = (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile)  # what a damaged file raises


def load(path: Path, wanted: list[str], optional: list[str], advice: str) -> dict[str, NDArray[Any]]:
    """Arrays by name; those that nobody asks for are not read.

    Args:
        path: The `.npz` file.
        wanted: The names that it must have.
        optional: Those that it may have.
        advice: What file is wanted and how to come by it, for messages: a sentence.

    Raises:
        DataError: There is no such file, it is damaged, or it lacks an array.
    """
    if not path.is_file():
        raise of.DataError(f"there is no file {path}. {advice}")
    if not zipfile.is_zipfile(path):
        raise of.DataError(f"{path} is no .npz file. {advice}")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            names = list(archive.files)
            for name in wanted:
                if name not in names:
                    near = get_close_matches(name, names, n=1)
                    hint = f" Did you mean {near[0]!r}?" if near else ""
                    raise of.DataError(f"{path} has no array {name!r}.{hint} It holds: {', '.join(names)}. {advice}")
            return {name: archive[name] for name in (*wanted, *optional) if name in names}
    except of.DataError:
        raise
    except UNREADABLE as problem:
        raise of.DataError(f"{path} cannot be read: {problem}. {advice}") from problem
