"""What a process that another one started does when that one is gone."""

import os
import sys
import threading
import time

EVERY = 1.0
"""Seconds between two looks."""


def end_with_parent() -> None:
    """Ends this process soon after the one that started it, if it is one of several that train together.

    It would else wait for it for as long as torch waits for any process, half an hour, where they meet at the start.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun ends all by itself
        return
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True, name="parent-watch").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    rank = os.environ["LOCAL_RANK"]
    print(f"error: process {rank} ends: its parent process {parent} has died", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(1)  # the main thread may wait in a collective call, which no exception reaches
