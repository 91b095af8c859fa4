"""Every page of the docs runs: its Python, and what it says that is printed."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
PAGES = {str(page.relative_to(DOCS)): BLOCK.findall(page.read_text()) for page in sorted(DOCS.rglob("*.md"))}
NEEDS = {name: name for name in ("torchdiffeq", "torchsde", "torchcde", "torchdyn")} | {"onnx": "onnxscript"}
"""What a block that imports a package of an extra needs to run."""
WARNS = {"pytorch.md", "your_data.md", "reference/training.md"}
"""Pages on which torch itself warns, while it compiles and exports, and Lightning."""
MARK = "--- next block"
HOUSES = "street,size,age,price\n" + "".join(f"A,{60 + 7 * n % 90},{13 * n % 50},{200 + 3 * n}\n" for n in range(60))
"""The file of one's own that pages read."""
BEGIN = """
import warnings, torch
warnings.simplefilter({action!r})
warnings.filterwarnings("ignore", ".*torch.jit.script.* is deprecated")  # of its own, in its forward mode
torch.manual_seed(0)
"""


def runs(code: str) -> bool:
    """Whether the packages that a block imports are installed."""
    imported = re.findall(r"^(?:import|from) (\w+)|torch\.(onnx)", code, re.MULTILINE)
    names = {name for found in imported for name in found}
    return all(find_spec(NEEDS[name]) is not None for name in names & set(NEEDS))


@pytest.mark.parametrize("page", [page for page, blocks in PAGES.items() if blocks])
def test_blocks_run_and_print_what_the_page_shows(page, shell, tmp_path):
    """The Python blocks of a page follow on each other; a block of text right below one is what it prints."""
    blocks = [(code, shown) for code, shown in PAGES[page] if runs(code)]
    (tmp_path / "houses.csv").write_text(HOUSES)
    script = BEGIN.format(action="ignore" if page in WARNS else "error")
    script += "".join(f"print({MARK!r})\n{code}\n" for code, _ in blocks)
    quick = script.replace("fullgraph=True", 'fullgraph=True, backend="aot_eager"')  # a compiler takes a minute
    (ended,) = shell(tmp_path, PYTHONPATH=f"{ROOT}:{ROOT / 'plugins'}").session(quick)
    assert ended.status == 0, ended.err
    for (_, shown), printed in zip(blocks, ended.out.split(f"{MARK}\n")[1:], strict=True):
        assert not shown or printed == shown
