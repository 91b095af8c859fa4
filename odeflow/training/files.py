"""Atomic file writes."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from odeflow.errors import OdeflowError


@contextmanager
def replacing(path: str | Path) -> Generator[Path]:
    """A temporary file beside `path`, with the same suffix, which replaces `path` once it is on disk.

    If the disk is full or the process is killed, the previous file is unchanged. Missing parent folders are created.

    Args:
        path: The file to write.

    Raises:
        OdeflowError: The file cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{uuid4().hex}-{path.name}")  # other processes may write the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
            _sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)
    except OSError as problem:
        raise unwritten(path, problem) from problem


def keep(path: Path, copy: Path) -> None:
    """Makes `copy` the same file as `path`, by a hard link where the file system has those; replaces it if it exists.

    Raises:
        OdeflowError: The file cannot be written.
    """
    with replacing(copy) as part:
        try:
            part.hardlink_to(path)
        except OSError:
            shutil.copyfile(path, part)


def _sync_folder(folder: Path) -> None:
    """Writes a folder's entries to disk, where the system can, so that a renamed file survives a loss of power."""
    if os.name != "posix":
        return
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def unwritten(path: str | Path, problem: Exception) -> OdeflowError:
    """The error for a file that cannot be written, with the first line of the cause."""
    reason = str(problem).strip().partition("\n")[0]
    return OdeflowError(f"{path} cannot be written: {reason}. What was there before is unchanged")
