"""Arrays from `.npz` files, with errors for missing or damaged ones."""

import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import odeflow as of
from odeflow_data.names import nearest

LARGEST = float(np.finfo(np.float32).max)
"""Numbers beyond this are infinite in batches."""


@contextmanager
def reading(path: object, advice: str = "", failed: str = "cannot be read") -> Generator[None]:
    """Converts any exception while a file is parsed into an error that names the file.

    Args:
        path: The file, or its origin.
        advice: A sentence of advice.
        failed: The failure, as a predicate.

    Raises:
        DataError: The file is damaged, or of another kind.
    """
    try:
        yield
    except of.OdeflowError:
        raise
    except Exception as problem:  # readers raise many types for damaged files
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise of.DataError(f"{path} {failed}: {reason}. {advice}".rstrip()) from problem


def load(path: Path, wanted: list[str], optional: list[str], advice: str) -> dict[str, NDArray[Any]]:
    """Arrays by name. Only the requested ones are read.

    Args:
        path: The `.npz` file.
        wanted: Names of required arrays.
        optional: Names of optional arrays.
        advice: The expected file and its source, for messages: a sentence.

    Raises:
        DataError: There is no such file, it is damaged, or it lacks an array.
    """
    if not path.is_file():
        raise of.DataError(f"there is no file {path}. {advice}")
    with reading(path, advice):
        if not zipfile.is_zipfile(path):
            raise of.DataError(f"{path} is no .npz file. {advice}")
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            names = list(archive.files)
            for name in wanted:
                if name not in names:
                    raise of.DataError(
                        f"{path} has no array {name!r}.{nearest(name, names)} It holds: {', '.join(names)}. {advice}"
                    )
            arrays = {name: archive[name] for name in (*wanted, *optional) if name in names}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # an entry of another kind comes as bytes
            raise of.DataError(f"{path}: {name} is no array. {advice}")
    return arrays


def require_finite(path: Path, name: str, array: NDArray[Any], advice: str) -> None:
    """Raises unless an array holds real numbers that are finite in float32.

    Raises:
        DataError: The array contains other values.
    """
    if array.dtype.kind not in "fiub":
        raise of.DataError(f"{path}: {name} must hold real numbers; its dtype is {array.dtype}. {advice}")
    wrong = ~(np.abs(array.astype(np.float64)) <= LARGEST)
    if wrong.any():
        raise of.DataError(
            f"{path}: {name} must hold numbers that are finite in float32; {wrong.sum():,} of {wrong.size:,} are not, "
            f"such as {array[wrong][0]}. {advice}"
        )
