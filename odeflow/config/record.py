"""RunRecord: what a run was, and what came of it, as `run.json` in its folder."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_type_hints

from odeflow.config import slurm
from odeflow.config.holding import abandoned
from odeflow.plugin.spec import mapping, sequence
from odeflow.plugin.structure import mismatch

if TYPE_CHECKING:
    from odeflow.config.request import Request

NAME = "run.json"
"""The record's file in the folder of a run."""
PACKAGES = ("odeflow", "torch", "lightning")
"""Packages whose versions are recorded."""


@dataclass(frozen=True)
class RunRecord:
    """What was run, where and with which result. It imports no torch, so that many are read fast.

    Attributes:
        command: fit, validate, test or predict.
        recipe: The run's label: the name of the first recipe or the stem of its file.
        overlays: The other recipes, in order.
        options: The options that were given, by name, as they were typed.
        ckpt_path: The checkpoint that was evaluated or resumed.
        versions: The versions of odeflow, torch, Lightning and Python.
        commit: The Git commit of the working directory, with a "+" if tracked files had changed; "" without one.
        machine: Processor architecture and number of its cores, as "x86_64, 16 cores".
        host: The name of the machine in its network.
        device: The device, as "cpu" or "NVIDIA H200".
        processes: Number of processes.
        job: The job of SLURM; None outside of one.
        started: When it began, in ISO 8601, UTC.
        seconds: How long it took so far.
        status: "running", "finished", "interrupted", "failed", or "killed": read on its host, a record says so of a run
            whose process is gone. On other machines it remains "running".
        epochs: Number of finished epochs.
        steps: Number of optimizer steps.
        monitor: The metric by which the best checkpoint is chosen.
        mode: "min" or "max".
        best: The best value of that metric.
        best_path: The checkpoint with this value, relative to the run's folder.
        metrics: The last value of each metric; None if it was not finite.
        trackers: By the class of each further logger, the "name" of its project and the "id" of the run there.
        folder: The folder in which the record was found; not stored.
    """

    command: str
    recipe: str
    overlays: list[str] = field(default_factory=list[str])
    options: dict[str, str] = field(default_factory=dict[str, str])
    ckpt_path: str | None = None
    versions: dict[str, str] = field(default_factory=dict[str, str])
    commit: str = ""
    machine: str = ""
    host: str = ""
    device: str = ""
    processes: int = 1
    job: str | None = None
    started: str = ""
    seconds: float = 0.0
    status: str = "running"
    epochs: int = 0
    steps: int = 0
    monitor: str | None = None
    mode: str = "min"
    best: float | None = None
    best_path: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict[str, float | None])
    trackers: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    folder: Path | None = field(default=None, compare=False)

    @classmethod
    def begin(cls, command: str, request: "Request") -> Self:
        """The record of a run that starts now.

        Args:
            command: fit, validate, test or predict.
            request: What was typed.
        """
        return cls(
            command,
            request.label or command,
            overlays=request.configs[1:],
            options={name: "" if value is None else value for name, value in request.options if name != "ckpt_path"}
            | ({} if request.weights is None else {"weights": request.weights}),
            versions={name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
            commit=_commit(),
            machine=f"{platform.machine()}, {os.cpu_count()} cores",
            host=platform.node(),
            job=slurm.job(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The record of the run in a folder; None if there is none or it is damaged. Its texts are printable."""
        try:
            content: Any = json.loads((folder / NAME).read_text())
            types = get_type_hints(cls)
            known = {each.name: content[each.name] for each in fields(cls) if each.name in content}
            known = {name: _printable(value) for name, value in known.items() if name != "folder"}
            if any(mismatch(value, types[name]) for name, value in known.items()):
                return None
            record = cls(**known, folder=folder)
            here = record.status == "running" and record.host == platform.node()
            return replace(record, status="killed") if here and abandoned(folder) else record
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def plain(self) -> dict[str, Any]:
        """The record as plain data."""
        return {name: value for name, value in asdict(replace(self, folder=None)).items() if name != "folder"}

    @property
    def place(self) -> Path:
        """The folder of the run."""
        return self.folder or Path()

    @property
    def changes(self) -> dict[str, str]:
        """What differs from the recipe: the options that were given, and the overlays."""
        return ({"-c": " ".join(self.overlays)} if self.overlays else {}) | self.options


def found(folder: Path) -> Iterator[RunRecord]:
    """The records of all runs in a folder and those beneath it, in the order of their start."""
    records = (RunRecord.read(file.parent) for file in folder.rglob(NAME))
    return iter(sorted((each for each in records if each is not None), key=lambda each: each.started))


def best(records: Iterable[RunRecord]) -> RunRecord | None:
    """The training run with the best value of its metric; None if no run has one.

    Runs are comparable if they have the same metric; those of the most recent run's metric are considered.
    """
    able = [each for each in records if each.command == "fit" and each.best is not None]
    if not able:
        return None
    last = able[-1]
    able = [each for each in able if each.monitor == last.monitor]
    sign = -1 if last.mode == "max" else 1
    return min(able, key=lambda each: sign * (each.best or 0.0))


def _printable(value: Any) -> Any:
    """A value from JSON without the characters that control a terminal."""
    if isinstance(value, str):
        return "".join(each if each.isprintable() or each in "\n\t" else "�" for each in value)
    items, entries = sequence(value), mapping(value)
    if entries is not None:
        return {_printable(name): _printable(each) for name, each in entries.items()}
    return value if items is None else [_printable(each) for each in items]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """The Git commit of the working directory, with "+" after it if tracked files have changed.

    A repository's own settings can name programs that Git runs to compare files: where it has some, no files are
    compared.
    """
    asked = ("describe", "--always", "--abbrev=12", "--exclude=*")
    named = _git("config", "--show-scope", "--name-only", "--get-regexp", r"^filter\.|^core\.fsmonitor$")
    own = any(line.startswith(("local", "worktree")) for line in named.splitlines())
    return _git(*asked) if own else _git(*asked, "--dirty=+")


def _git(*words: str) -> str:
    """What Git says; nothing if it fails."""
    try:
        return subprocess.run(("git", *words), capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
