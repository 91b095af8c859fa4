"""IDX: the format of MNIST's files, and the files that are published in it."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import odeflow as of
from odeflow_data.archive import reading, unzipped
from odeflow_data.download import fetch, keep

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

LARGEST = 1 << 31
"""Number of bytes that a gzipped file may unpack to; MNIST's has 47 million."""


class Published(NamedTuple):
    """A data set of four IDX files.

    Attributes:
        url: Folder of the gzipped files.
        checksums: The md5 of each file, in the order of `NAMES`.
        packed: Whether the checksums are those of the gzipped files; otherwise of their contents.
        classes: The names of the ten classes; empty if they are the digits.
        moments: Mean and standard deviation of the training pixels in common use, if any.
    """

    url: str
    checksums: Sequence[str]
    packed: bool = True
    classes: tuple[str, ...] = ()
    moments: tuple[float, float] | None = None

    def checksum(self, name: str) -> str:
        """The md5 of a file."""
        return self.checksums[NAMES.index(name)]


def present(root: Path, name: str) -> bool:
    """Whether a folder has a file, gzipped or not."""
    return (root / name).is_file() or (root / f"{name}.gz").is_file()


def download(url: str, root: Path, name: str, published: Published) -> None:
    """Downloads, checks and stores a gzipped file, decompressed if the checksum is that of its contents.

    Raises:
        DataError: It cannot be fetched or kept, or is another one.
    """
    address = f"{url.rstrip('/')}/{name}.gz"
    packed = fetch(address, root, name, "Put the four IDX files there").getvalue()
    if published.packed:
        _check(packed, f"{name}.gz from {url}", published.checksum(name))
        keep(root, f"{name}.gz", lambda part: part.write_bytes(packed))
        return
    with reading(address, failed="is not a gzip file"):
        contents = unzipped(packed, LARGEST, address)
    _check(contents, f"{name} from {url}", published.checksum(name))
    keep(root, name, lambda part: part.write_bytes(contents))


def read_idx(root: Path, name: str, published: Published | None = None) -> Tensor:
    """An array of bytes in the IDX format, gzipped or not.

    Args:
        root: Folder of the file.
        name: Its name, without `.gz`.
        published: The data set that it must belong to; anything by default.

    Returns:
        uint8, of the shape that the file states.

    Raises:
        DataError: The file is absent, truncated, no IDX file of bytes, or not the published one.
    """
    plain, packed = root / name, root / f"{name}.gz"
    if not present(root, name):
        raise of.DataError(f"{root} has neither {name} nor {name}.gz; it must hold the four IDX files")
    by_packed = published is not None and published.packed
    source = plain if plain.is_file() and not (by_packed and packed.is_file()) else packed
    with reading(source, "Delete it to download it again", "cannot be decompressed"):
        held = source.read_bytes()
        contents = held if source == plain else unzipped(held, LARGEST, source)
    if len(contents) < 4 or contents[:3] != b"\x00\x00\x08":
        raise of.DataError(f"{name} is no IDX file of bytes: it begins with {contents[:4].hex(' ') or 'nothing'}")
    start = 4 + 4 * contents[3]
    shape = tuple(int.from_bytes(contents[at : at + 4], "big") for at in range(4, start, 4))
    total = start + math.prod(shape)
    if len(contents) != total:
        raise of.DataError(f"{name} states the shape {shape}, so {total} bytes in all, but has {len(contents)}")
    if by_packed and source == plain:
        raise of.DataError(
            f"{plain} cannot be verified: the published checksum is of {name}.gz. Put that file there, or set "
            "--data.verify false"
        )
    if published is not None:
        _check(held if by_packed else contents, str(source), published.checksum(name), "Delete it to download it again")
    return torch.from_numpy(np.frombuffer(contents, np.uint8, offset=start).reshape(shape).copy())


def _check(contents: bytes, origin: str, checksum: str, advice: str = "") -> None:
    """Raises unless the contents are the published ones."""
    found = hashlib.md5(contents, usedforsecurity=False).hexdigest()
    if found != checksum:
        raise of.DataError(f"{origin} is damaged or another file: md5 {found}, wanted {checksum}. {advice}".rstrip())
