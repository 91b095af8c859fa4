"""What is imported, and when. Which floor may import which is import-linter's to check, by `lint-imports`."""

import subprocess
import sys

import pytest


def test_import_is_cheap() -> None:
    """`import odeflow` loads neither torch nor Lightning, and using the engine does not load Lightning."""
    code = (
        "import sys, odeflow; assert 'torch' not in sys.modules and 'lightning' not in sys.modules;"
        "odeflow.Flow; odeflow.Dynamics; assert 'torch' in sys.modules and 'lightning' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_imports_more_than_it_needs() -> None:
    """A first solve by torchdiffeq's interface loads the solvers, but neither tasks and data nor what those need.

    Data that are no tables do not load polars.
    """
    heavy = {"lightning", "torchmetrics", "wandb", "matplotlib", "sklearn", "pooch", "jsonargparse", "scipy"}
    code = (
        "import sys, torch; from odeflow.compat.torchdiffeq import odeint;"
        "odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]));"
        f"assert not {heavy} & sys.modules.keys(), sys.modules.keys();"
        "import odeflow_data; odeflow_data.Spiral(); assert 'polars' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_library_needs_none_of_them() -> None:
    """Where only torch, numpy and lazy-loader are installed, flows are solved and trained in plain PyTorch."""
    code = (
        "import sys\n"
        "absent = ('lightning', 'torchmetrics', 'wandb', 'torchdiffeq', 'matplotlib', 'sklearn', 'scipy', 'pooch', 'polars',"
        " 'jsonargparse', 'docstring_parser', 'platformdirs', 'rich', 'safetensors', 'PIL', 'yaml')\n"
        "sys.modules |= dict.fromkeys(absent)\n"  # importing them fails
        "import torch, odeflow as of, odeflow_dynamics, odeflow_solvers\n"
        "flow = of.Flow(odeflow_dynamics.MLP(dim=2), odeflow_solvers.Dopri5(), of.Adjoint())\n"
        "flow(torch.randn(4, 2)).sum().backward()\n"
        "of.diagnose(flow, torch.randn(4, 2))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_public_names_are_there() -> None:
    """Every public name can be imported, and an unknown one is an AttributeError."""
    import odeflow

    for name in odeflow.__all__:
        assert getattr(odeflow, name) is not None
    with pytest.raises(AttributeError, match="No odeflow attribute Flwo"):
        odeflow.Flwo  # noqa: B018
