"""The house has floors: a file imports only what stands below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

CORE = Path(__file__).parents[1] / "odeflow"
FILES = sorted(CORE.rglob("*.py"))
PLUGIN_PACKAGES = ("odeflow_solvers", "odeflow_dynamics", "odeflow_tasks", "odeflow_data")
ABOVE_LIGHTNING = ("task.py", "data.py", "checkpoint.py", "callbacks", "cli")
LIGHTNING = ("lightning", "pytorch_lightning", "torchmetrics", "wandb", "jsonargparse")


def imports(file: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in it; the type checker's own imports left out."""
    tree = ast.parse(file.read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(CORE).as_posix())
def test_core_knows_no_plugin(file: Path) -> None:
    """No file of the core imports a concrete plugin package."""
    assert not {name for name in imports(file) if name.split(".")[0] in PLUGIN_PACKAGES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(CORE).as_posix())
def test_below_task_there_is_no_lightning(file: Path) -> None:
    """Only the task, the data, their checkpoints, callbacks and the command line import Lightning and its kin."""
    if file.relative_to(CORE).parts[0] in ABOVE_LIGHTNING:
        return
    found = imports(file)
    assert not {name for name in found if name.split(".")[0] in LIGHTNING}
    assert not {
        name
        for name in found
        if name in {"odeflow.training.task", "odeflow.training.data", "odeflow.training.callbacks"}
    }


def test_import_is_cheap() -> None:
    """`import odeflow` loads neither torch nor Lightning, and using the engine does not load Lightning."""
    code = (
        "import sys, odeflow; assert 'torch' not in sys.modules and 'lightning' not in sys.modules;"
        "odeflow.Flow; odeflow.Dynamics; assert 'torch' in sys.modules and 'lightning' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_solve_imports_no_more_than_it_needs() -> None:
    """A first solve by torchdiffeq's interface loads the solvers, but neither tasks and data nor what those need."""
    heavy = {"lightning", "torchmetrics", "wandb", "matplotlib", "sklearn", "pooch", "jsonargparse", "scipy"}
    code = (
        "import sys, torch; from odeflow.compat import odeint;"
        "odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]));"
        f"assert not {heavy} & sys.modules.keys(), sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_there() -> None:
    """Every public name can be imported, and an unknown one is an AttributeError that lists them."""
    import odeflow

    for name in odeflow.__all__:
        assert getattr(odeflow, name) is not None
    with pytest.raises(AttributeError, match=r"no attribute 'Flwo'; public names: .*Flow"):
        odeflow.Flwo  # noqa: B018
