"""Arrays from `.npz` files and contents of compressed ones, with errors for missing, damaged and oversized ones."""

import gzip
import hashlib
import io
import zipfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import odeflow as of
from odeflow_data.memory import available_memory
from odeflow_data.names import nearest

LARGEST = float(np.finfo(np.float32).max)
"""Numbers beyond this are infinite in batches."""
MOST_PACKED = 1032
"""The largest ratio of gzip, of which a file is never a bomb if so many times its size fits into memory."""


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
    except BaseException as problem:  # readers raise many types for damaged files
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":  # polars' own
            raise
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise of.DataError(f"{path} {failed}: {reason}. {advice}".rstrip()) from problem


def check_unpacked(origin: object, size: int) -> None:
    """Raises unless so many bytes fit into memory: a small file may say that it unpacks to any size.

    Args:
        origin: The file, for the message.
        size: Number of bytes of its contents.

    Raises:
        DataError: They do not fit.
    """
    free = available_memory()
    if free is not None and size > free:
        raise of.DataError(
            f"{origin} unpacks to {size / 2**30:.1f} GiB; {free / 2**30:.1f} GiB of memory are free. If that is right, "
            "write part of it to another file"
        )


def unzipped(packed: bytes, most: int, origin: object) -> bytes:
    """The contents of a gzip file.

    Args:
        packed: The file.
        most: Number of bytes that they may have.
        origin: Where it comes from, for the message.

    Raises:
        DataError: They have more.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
        contents = stream.read(most + 1)
    if len(contents) > most:
        raise of.DataError(f"{origin} unpacks to more than {most:,} bytes, which is not what it should hold")
    return contents


def check_unzipped(path: Path) -> None:
    """Raises unless the contents of a gzip file fit into memory. A file that cannot be too large is not read.

    Raises:
        DataError: They do not fit.
    """
    free = available_memory()
    if free is None or path.stat().st_size * MOST_PACKED < free:
        return
    size = 0
    with gzip.open(path) as stream:
        while block := stream.read(1 << 24):
            size += len(block)
            check_unpacked(path, size)


def checksum(arrays: Iterable[NDArray[Any]]) -> str:
    """The sha256 of the shapes, dtypes and values of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


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
            check_unpacked(path, sum(held.file_size for held in archive.zip.infolist() if held.filename[:-4] in names))
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
