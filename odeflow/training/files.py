"""Files that are written whole or not at all."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from odeflow.errors import OdeflowError


@contextmanager
def replacing(path: str | Path) -> Generator[Path]:
    """A file beside `path` to write to, with the same ending; once it is on the disk, it takes the name `path`.

    So a full disk, or a process that is killed, leaves what was there before. Folders on the way are made.

    Args:
        path: The file that is to be written.

    Raises:
        OdeflowError: It cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{uuid4().hex}-{path.name}")  # others may write the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as problem:
        raise unwritten(path, problem) from problem


def unwritten(path: str | Path, problem: Exception) -> OdeflowError:
    """The error for a file that cannot be written, and its first reason."""
    reason = str(problem).strip().partition("\n")[0]
    return OdeflowError(f"{path} cannot be written: {reason}. What was there before is unchanged")
