"""Ends the child processes of a distributed run when their parent is gone."""

import os
import sys
import threading
import time

EVERY = 1.0
"""Seconds between two checks."""


def end_with_parent() -> None:
    """Ends this process soon after its parent, if it is one of several in a distributed run.

    Otherwise it would wait for the parent in the initial rendezvous until torch's timeout of half an hour.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun does it
        return
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True, name="parent-watch").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    rank = os.environ["LOCAL_RANK"]
    print(f"error: process {rank} ends: its parent process {parent} has died", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(1)  # a collective call may block the main thread; exceptions do not interrupt it
