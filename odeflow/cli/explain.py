"""Errors of the parser and of libraries in one line instead of sixty."""

import errno
import re
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException

from odeflow.cli import trust
from odeflow.errors import OdeflowError
from odeflow.plugin import registry

RESTORING = ("checkpoint_connector.py", "migration/utils.py")
"""Lightning's files that read checkpoints."""
FORMAL = "Does not validate|Expected a path|Expected a dot import path"
"""Beginnings of the parser's reasons that are uninformative if it gives others."""


def unbuilt(problem: BaseException) -> str:
    """Why an object could not be built, in a few lines, without the parser's surrounding text."""
    cause = problem
    while cause.__cause__ is not None and not isinstance(cause, OdeflowError):
        cause = cause.__cause__
    if isinstance(cause, (OdeflowError, MisconfigurationException)):
        return shortened(str(cause), [])
    if not _raised_in(cause, "jsonargparse"):
        return registry.cause(cause)
    reasons = re.findall(r"Problem with given class_path '[^']+':\s*\n\s*(.+)", str(problem))
    return reasons[-1] if reasons else shortened(str(problem), [])


def restoring(problem: BaseException) -> bool:
    """Whether an error was raised while Lightning read a checkpoint."""
    return any(frame.filename.endswith(RESTORING) for frame in traceback.extract_tb(problem.__traceback__))


def failed(problem: BaseException) -> str | None:
    """Why a run failed, if a user setting is the cause; None if it may be a bug."""
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {problem}. Checkpoints that were written before are whole"
    if isinstance(problem, dist.DistError) or "gloo/transport" in str(problem):
        reason = str(problem).strip().partition("\n")[0].partition("] ")[2] or str(problem)
        return f"another process of this run has ended, or cannot be reached: {reason[:200]}"
    if isinstance(problem, MisconfigurationException) or _raised_in(problem, "lightning"):
        return (
            str(problem) if isinstance(problem, (MisconfigurationException, RuntimeError)) else registry.cause(problem)
        )
    if _raised_in(problem, "torch", "optim"):
        return f"the optimizer or the schedule cannot go on: {registry.cause(problem)}"
    if isinstance(problem, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(problem):
        return f"the memory is full; use smaller batches or a smaller model ({str(problem)[-200:]})"
    return None


def _raised_in(problem: BaseException, *parts: str) -> bool:
    """Whether an error was raised in a package or in a folder of one."""
    place = Path(traceback.extract_tb(problem.__traceback__)[-1].filename).parts
    return any(place[start : start + len(parts)] == parts for start in range(len(place)))


def shortened(message: str, known: Sequence[str]) -> str:
    """The parser's message in a few lines. A message of unknown form is returned unchanged.

    Args:
        message: The parser's message.
        known: The option names of the command, such as `trainer.max_epochs`.
    """
    message = re.sub(r"<class '([\w.]+)'>", r"\1", message)
    unrecognized = re.search(r"[Uu]nrecognized arguments: (.+)", message)
    if unrecognized:
        word = unrecognized[1].split()[0]
        option = word.lstrip("-").partition("=")[0]
        near = get_close_matches(option, known, n=1)
        hint = f" Did you mean --{near[0]}?" if near else ""
        return f"there is no option {word.partition('=')[0]}.{hint}"
    denied = re.search(r"Importing '([^']+)' is not allowed", message)
    if denied:
        key = re.search(r'key "([^"]+)"|^(--\S+?):', message)
        place = f"{key[1] or key[2]}: " if key else ""
        return (
            f"{place}{denied[1]} is not imported: it is neither a plugin nor a class of torch or Lightning that may be "
            f"named. {trust.ADVICE}"
        )
    listed = re.findall(r"^\s*- (?:.+:\n\s*)*(.+)$", message, re.MULTILINE)  # after a heading, the line below it
    reasons = [reason for reason in listed if "NoneType" not in reason]
    reasons = [reason for reason in reasons if not re.match(FORMAL, reason)] or reasons
    if reasons:
        key, given = re.search(r'key "([^"]+)"', message), re.search(r"Given value: (.{1,60})$", message, re.MULTILINE)
        place = f"{key[1]}: " if key else ""
        return place + "; ".join(dict.fromkeys(reasons)) + (f", got {given[1]}" if given else "")
    message = re.sub(r'^Parser key "([^"]+)":\s*', r"\1: ", message)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "\n  ".join(lines[:4])
