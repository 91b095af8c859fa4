"""Downloads of published files: checked, and written atomically."""

import hashlib
import io
import stat
from collections.abc import Callable
from pathlib import Path

import pooch

import odeflow as of
from odeflow.training.files import replacing

ANYONE_WRITES = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def fetch(address: str, root: Path, name: str, advice: str) -> io.BytesIO:
    """Downloads a file that a folder lacks, and creates the folder.

    Args:
        address: URL of the file.
        root: The folder.
        name: Name of the file in the folder, for messages.
        advice: An alternative for the user, for messages: "Put … there".

    Raises:
        DataError: The download fails, or the folder cannot be created.
    """
    contents = io.BytesIO()
    try:
        root.mkdir(parents=True, exist_ok=True)
        pooch.HTTPDownloader(stream=False)(address, contents, None)  # retrieve() prints and trusts a killed run's rest
    except Exception as problem:
        raise of.DataError(
            f"{name} is not in {root} and cannot be downloaded from {address}: {problem}. "
            f"{advice}, or name its folder by --data.root"
        ) from problem
    return contents


def published_text(text: bytes, sha256: str, origin: str) -> bytes:
    """Checks that a text is the published one, and returns it with Unix line ends.

    Args:
        text: The text, with any line ends, since copies differ in these.
        sha256: The checksum of the published one, with Unix line ends.
        origin: Where the text comes from, for messages.

    Raises:
        DataError: The text differs from the published one.
    """
    text = text.replace(b"\r", b"")
    found = hashlib.sha256(text).hexdigest()
    if found != sha256:
        raise of.DataError(
            f"{origin} is damaged or another file: with Unix line ends it has sha256 {found}, wanted {sha256}"
        )
    return text


def keep(root: Path, name: str, write: Callable[[Path], object]) -> None:
    """Writes a file atomically, so that a killed run leaves no partial file.

    A folder without write permission is not written to, even by root.

    Args:
        root: The folder.
        name: Name of the file.
        write: Writes the file to a path.

    Raises:
        DataError: The file cannot be written or renamed.
    """
    try:
        if not root.stat().st_mode & ANYONE_WRITES:
            raise PermissionError("the folder is read-only")
        with replacing(root / name) as part:
            write(part)
    except (OSError, of.OdeflowError) as problem:
        raise of.DataError(
            f"{name} cannot be kept in {root}: {problem}. Name another folder by --data.root"
        ) from problem
