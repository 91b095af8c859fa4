"""What the scripts of this folder read of runs."""

import csv
from pathlib import Path


def newest(folder: Path) -> Path:
    """The last version of a run."""
    return max(folder.glob("version_*"), key=lambda version: int(version.name.removeprefix("version_")))


def column(run: Path, name: str) -> list[float]:
    """All values of a metric."""
    with (run / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]
