"""What the tests share: problems to solve, and the registry."""

import os
from pathlib import Path

import pytest

from equations import Coupled, Pendulum
from odeflow.plugin import registry

registry.discover()
SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture
def pendulum() -> Pendulum:
    return Pendulum()


@pytest.fixture
def coupled() -> Coupled:
    return Coupled(Pendulum())


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; a test that needs it is skipped where it is absent, but not by CI."""
    if not SHARED.is_dir() and os.environ.get("CI") != "true":
        pytest.skip(f"needs the real data in {SHARED.name}/ beside the project")
    return SHARED
