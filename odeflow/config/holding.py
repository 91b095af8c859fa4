"""Holding: whether the process that writes into a folder is alive, told by a lock that ends with it."""

import os
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None


class Hold:
    """A lock on a folder, until it is released or the process ends. Where there are no locks, it does nothing.

    Args:
        folder: The folder, which is made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.entry: int | None = None
        if fcntl is not None:
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                self.entry = os.open(folder, os.O_RDONLY)
                fcntl.flock(self.entry, fcntl.LOCK_SH)

    def release(self) -> None:
        """Ends the lock."""
        if self.entry is not None:
            os.close(self.entry)
            self.entry = None


def abandoned(folder: Path) -> bool:
    """Whether no process of this machine holds a folder; False where that cannot be told."""
    if fcntl is None:
        return False
    try:
        entry = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(entry, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(entry)
