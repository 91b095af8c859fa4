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
    """The contents of a file that a folder lacks; the folder is made.

    Args:
        address: Where it is.
        root: The folder, for messages.
        name: What it is called there, for messages.
        advice: What else the user can do, for messages: "Put … there".

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
    """A text with Unix line ends, if it is the published one.

    Args:
        text: The text, with line ends of any kind, in which copies differ.
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

    A folder that nobody may write to stays as it is, even for root, whom its mode would not stop.

    Args:
        root: The folder.
        name: Of the file.
        write: Writes it, to a path.

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
