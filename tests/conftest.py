"""What the tests share: problems to solve, the registry, and the figures of a training.

odeflow is imported by what needs it, so that the process that hands the tests out to xdist's workers starts at once.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

    from equations import Coupled, Pendulum

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: workers have a core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).parents[2] / "shared"
LONG = ("benchmarks", "examples", "processes", "recipes")
"""Folders whose tests train recipes, run pages and scripts, or start several processes."""


def pytest_collection() -> None:
    """Plugins are known before tests are collected; xdist collects in its workers alone."""
    from odeflow.plugin import registry

    registry.discover()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests in `LONG` folders, unless the folder is named on the command line; pytest then deselects by mark."""
    asked = {part for word in config.args for part in Path(word.partition("::")[0]).parts}
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in LONG and folder not in asked:
            item.add_marker(pytest.mark.long)


def pytest_collection_finish() -> None:
    """Modules and tests stay: the garbage collector need not visit them again."""
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda", help="the device of the tests that are marked device; by default cuda")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of a test; the test is skipped where there is none."""
    import torch

    found = torch.device(request.config.getoption("--device"))
    if found.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return found


@pytest.fixture
def pendulum() -> Pendulum:
    from equations import Pendulum

    return Pendulum()


@pytest.fixture
def coupled() -> Coupled:
    from equations import Coupled, Pendulum

    return Coupled(Pendulum())


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; a test that needs it is skipped where it is absent, but not by CI."""
    if not SHARED.is_dir() and os.environ.get("CI") != "true":
        pytest.skip(f"needs the real data in {SHARED.name}/ beside the project")
    return SHARED


@pytest.fixture
def draw_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Leaves out the figures of the other moments of a training, which take longer than a few steps."""
    from odeflow.training.callbacks import Figures

    draw = Figures._draw

    def at(*wanted: str) -> None:
        monkeypatch.setattr(Figures, "_draw", lambda *words: draw(*words) if words[-1] in wanted else None)

    return at
