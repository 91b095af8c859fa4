"""The checkpoints of runs: where they are, and whether they are whole."""

import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from odeflow.config.record import RunRecord

LAST, BEFORE = "last.ckpt", "last_but_one.ckpt"
"""The file names of the newest checkpoint of a run and of the one before."""
KEYWORDS = {
    "last": "*/checkpoints/last*.ckpt",
    "best": "*/checkpoints/best*.ckpt",
    "hpc": "hpc_ckpt_*.ckpt",  # written by Lightning when a SLURM job is requeued
}
"""Keywords for `--ckpt_path`, with their glob patterns in the folder of a recipe's runs."""
UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile)  # raised for a damaged zip


def found(folder: Path, word: str, job: str | None = None) -> list[Path]:
    """The checkpoints that a keyword means, newest first.

    Args:
        folder: The folder of a recipe's runs.
        word: One of `KEYWORDS`.
        job: If given, only those of runs of this job of SLURM.
    """
    paths = sorted(folder.glob(KEYWORDS[word]), key=_age, reverse=True)
    if job is None:
        return paths
    records = {path: RunRecord.read(path.parent.parent) for path in paths}
    return [path for path, record in records.items() if record is not None and record.job == job]


def first_whole(paths: Iterable[Path]) -> tuple[Path | None, list[str]]:
    """The first checkpoint that is not damaged, if any, and what is wrong with those before."""
    damaged: list[str] = []
    for path in paths:
        wrong = damage(path)
        if wrong is None:
            return path, damaged
        damaged.append(f"{path} {wrong}")
    return None, damaged


def damage(path: str | Path) -> str | None:
    """What is wrong with a checkpoint, by the checksums of its parts, which torch writes but does not read."""
    try:
        with zipfile.ZipFile(path) as archive:
            held, size = sum(part.file_size for part in archive.infolist()), Path(path).stat().st_size
            if held > size:  # before it is unpacked: torch compresses nothing
                reason = f"its parts have {held:,} bytes, the file {size:,}. torch wrote no such file"
                return f"cannot be read as a checkpoint: {reason}"
            broken = archive.testzip()
    except UNREADABLE as problem:
        return f"cannot be read as a checkpoint: {problem}"
    return None if broken is None else f"is damaged: the checksum of its part {broken} does not match"


def other_than(path: str | Path) -> str:
    """What to use instead of a checkpoint that cannot be used."""
    before = Path(path).with_name(BEFORE)
    earlier = before.name != Path(path).name and before.is_file()
    return f"Use the one before it, {before}" if earlier else "Use another checkpoint, or train anew"


def _age(checkpoint: Path) -> tuple[int, float]:
    """Sort key that grows with newer checkpoints: the version number of the run, then the modification time."""
    number = re.fullmatch(r"version_(\d+)", checkpoint.parent.parent.name)
    return int(number[1]) if number else -1, checkpoint.stat().st_mtime
