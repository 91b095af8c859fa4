"""The page docs/pytorch.md runs."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "pytorch.md"


@pytest.mark.filterwarnings("ignore")  # of torch's own code, while it exports
def test_snippets_run(tmp_path, monkeypatch, capsys):
    """They follow on each other, and print what the page says; that of ONNX needs its packages."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if "onnx" not in snippet or (find_spec("onnxruntime") and find_spec("onnxscript")):
            exec(snippet.replace("fullgraph=True", 'fullgraph=True, backend="aot_eager"'), names)
    printed = capsys.readouterr().out.splitlines()
    assert "torch.Size([7, 1])" in printed
    for line in printed:
        if re.fullmatch(r"[\d.e-]+", line):  # the difference of onnxruntime's values
            assert float(line) < 1e-5
    assert names["per_sample"]["dynamics.layers.0.bias"].shape == (5, 64)
    assert names["jacobian"].shape == (5, 4, 5, 4)
