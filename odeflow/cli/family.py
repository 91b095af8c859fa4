"""The processes of a distributed run: children end when their parent is gone, and all close their connections."""

import os
import sys
import threading
import time

import torch.distributed as dist

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


def leave_group() -> None:
    """Closes this process's connections to the others once a run has ended.

    Otherwise a thread of gloo may release a Python object while the interpreter shuts down, which aborts the process
    and turns a successful run into a failed one. Lightning does this for NCCL alone.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
