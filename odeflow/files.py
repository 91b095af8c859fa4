"""Files that are written whole or not at all."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Generator[Path]:
    """A file beside `path` to write to, with the same ending; once it is on the disk, it takes the name `path`.

    So a full disk, or a process that is killed, leaves what was there before. Folders on the way are made.

    Args:
        path: The file that is to be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
