"""The snippets of the README and the docs are sound, for the type checker of whoever copies them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright comes with the extra dev")
def test_snippets_are_typed(tmp_path: Path) -> None:
    """Pyright finds nothing in them in its strict mode: a solution knows whether its state is a tensor or a tuple."""
    pages = (
        "stochastic",
        "concepts/flow",
        "concepts/events",
        "concepts/per_sample",
        "concepts/paths",
        "how_to/solver_family",
    )
    for page in ("README.md", *(f"docs/{name}.md" for name in pages)):  # the snippets of a page follow on each other
        snippets = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
        assert snippets
        text = "\n".join(("# pyright: strict, reportUnknownMemberType=false", *snippets))  # as torch leaves `backward`
        (tmp_path / f"{Path(page).stem.lower()}_page.py").write_text(text)
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
