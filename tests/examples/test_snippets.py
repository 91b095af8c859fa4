"""The snippets of the README are sound, for the type checker of whoever copies them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright comes with the extra dev")
def test_snippets_of_the_readme_are_typed(tmp_path: Path) -> None:
    """Pyright finds nothing in them in its strict mode: a solution knows whether its state is a tensor or a tuple."""
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert snippets
    for number, snippet in enumerate(snippets):
        (tmp_path / f"snippet{number}.py").write_text(f"# pyright: strict, reportUnknownMemberType=false\n{snippet}")
    (tmp_path / "tuples.py").write_text(
        "# pyright: strict\nimport torch\nimport odeflow as of\nfrom torch import Tensor\nfrom odeflow_solvers import Dopri5\n\n\n"
        "def swing(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:\n    return y[1], -y[0]\n\n\n"
        "q, p = of.solve(swing, (torch.ones(1), torch.zeros(1)), [0.0, 1.0], solver=Dopri5(), params=()).y\nprint(q.sum())\n"
    )
    settings = {"extraPaths": [str(ROOT), str(ROOT / "plugins")], "reportMissingTypeStubs": False}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = ["pyright", "--project", str(tmp_path), "--pythonpath", sys.executable]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
